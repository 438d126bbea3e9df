"""The end of a statement's span: with the last of its rows, and what its receipt says then."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import pyarrow as pa

from functions.tracing import Span
from service.statement import Receipt, Result
from service.streams import Stream, close_stream

__all__ = ["traced"]


def traced(result: Result, span: Span) -> Result:
    """Return the result with rows that end ``span`` when they end, fail or are given up."""

    async def release() -> None:
        await close_stream(result.batches)
        _tell(span, result.receipt)
        span.end()

    return Result(result.schema, Stream(_rows(result.batches, span), release), result.receipt)


async def _rows(batches: AsyncIterator[pa.RecordBatch], span: Span) -> AsyncGenerator[pa.RecordBatch, None]:
    try:
        async for batch in batches:
            yield batch
    except GeneratorExit:
        raise
    except BaseException as error:
        span.fail(error)
        raise


def _tell(span: Span, receipt: Receipt) -> None:
    span.set({
        "firnline.rows": receipt.rows,
        "firnline.files_total": receipt.files_total,
        "firnline.files_scanned": receipt.files_scanned,
        "firnline.bytes_scanned": receipt.bytes_scanned,
        "firnline.requests": receipt.requests,
        "firnline.tail_rows": receipt.tail_rows,
        "firnline.tasks": receipt.tasks,
        "firnline.cost_usd": receipt.cost_usd,
    })  # fmt: skip
