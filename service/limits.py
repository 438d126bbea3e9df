"""Limits on a result while it streams: rows and bytes out. Time and memory are the executors' matter."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from typing import TypeVar

import pyarrow as pa

from service.encode import Chunk
from service.statement import Limits
from service.streams import Stream, close_stream
from storage.errors import LimitError

__all__ = ["limit_batches", "limit_bytes", "limit_rows"]

T = TypeVar("T")


def limit_rows(batches: AsyncIterator[pa.RecordBatch], limits: Limits) -> Stream[pa.RecordBatch]:
    """Return the batches; `LimitError` comes before a batch that goes past ``result_rows_max``."""
    return Stream(_rows(batches, limits), partial(close_stream, batches))


def limit_batches(batches: AsyncIterator[pa.RecordBatch], limits: Limits) -> Stream[pa.RecordBatch]:
    """Return the batches under both limits, ``result_bytes_max`` counting Arrow's bytes: nothing encodes them after."""
    rows = limit_rows(batches, limits)
    return Stream(_bytes(rows, limits, lambda batch: int(batch.nbytes)), partial(close_stream, rows))


def limit_bytes(chunks: AsyncIterator[Chunk], limits: Limits) -> Stream[Chunk]:
    """Return the encoded chunks; `LimitError` comes before one that goes past ``result_bytes_max``."""
    return Stream(_bytes(chunks, limits, len), partial(close_stream, chunks))


async def _rows(batches: AsyncIterator[pa.RecordBatch], limits: Limits) -> AsyncGenerator[pa.RecordBatch, None]:
    n_rows = 0
    async for batch in batches:
        n_rows += batch.num_rows
        if limits.result_rows_max and n_rows > limits.result_rows_max:
            raise LimitError(
                "the result has more rows than its limit; add LIMIT, or ask for more with max_rows",
                result_rows_max=limits.result_rows_max,
            )
        yield batch


async def _bytes(items: AsyncIterator[T], limits: Limits, size: Callable[[T], int]) -> AsyncGenerator[T, None]:
    n_bytes = 0
    async for item in items:
        n_bytes += size(item)
        if limits.result_bytes_max and n_bytes > limits.result_bytes_max:
            raise LimitError(
                "the result has more bytes than its limit; select fewer rows or columns, or use mode async",
                result_bytes_max=limits.result_bytes_max,
            )
        yield item
