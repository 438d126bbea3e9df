"""Limits on a result while it streams: rows and bytes out. Time and memory are the executors' matter."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pyarrow as pa

from service.encode import Chunk
from service.statement import Limits
from storage.errors import LimitError

__all__ = ["close_stream", "limit_bytes", "limit_rows"]


async def limit_rows(batches: AsyncIterator[pa.RecordBatch], limits: Limits) -> AsyncGenerator[pa.RecordBatch, None]:
    """Yield the batches; raise `LimitError` before a batch that goes past ``result_rows_max``."""
    n_rows = 0
    try:
        async for batch in batches:
            n_rows += batch.num_rows
            if limits.result_rows_max and n_rows > limits.result_rows_max:
                raise LimitError(
                    "the result has more rows than its limit; add LIMIT, or ask for more with max_rows",
                    result_rows_max=limits.result_rows_max,
                )
            yield batch
    finally:
        await close_stream(batches)


async def limit_bytes(chunks: AsyncIterator[Chunk], limits: Limits) -> AsyncGenerator[Chunk, None]:
    """Yield the encoded chunks; raise `LimitError` before one that goes past ``result_bytes_max``."""
    n_bytes = 0
    try:
        async for chunk in chunks:
            n_bytes += len(chunk)
            if limits.result_bytes_max and n_bytes > limits.result_bytes_max:
                raise LimitError(
                    "the result has more bytes than its limit; select fewer rows or columns, or use mode async",
                    result_bytes_max=limits.result_bytes_max,
                )
            yield chunk
    finally:
        await close_stream(chunks)


async def close_stream(stream: AsyncIterator[Any]) -> None:
    """Close an asynchronous generator; other iterators have nothing to close."""
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()
