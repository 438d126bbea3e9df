"""The rows of ``gap_fill((query), 'time', 'width', …)`` (`service.parse_gap_fill`): its query's, on a grid of times."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

import pyarrow as pa
from datafusion.catalog import Table

from functions.execute import stream
from functions.gap_fill import PLACES_MAX, Gaps, fill_gaps
from functions.session import Session
from storage.errors import LimitError

if TYPE_CHECKING:
    from service.planned import Planned

__all__ = ["filled_table"]

_BYTES_MAX = 1 << 30


async def filled_table(session: Session, planned: Planned, gaps: Gaps) -> Table:
    """Run a planned query and return its rows on the grid.

    Raises
    ------
    LimitError : it has too many rows, or the grid
    """
    batches, n_rows, n_bytes = [], 0, 0
    async with aclosing(_batches(session, planned)) as found:
        async for batch in found:
            n_rows, n_bytes = n_rows + batch.num_rows, n_bytes + batch.nbytes
            if n_rows > PLACES_MAX or n_bytes > _BYTES_MAX:
                raise LimitError(
                    "the query of gap_fill has too many rows; aggregate them, or filter", rows_max=PLACES_MAX,
                    bytes_max=_BYTES_MAX,
                )  # fmt: skip
            batches.append(batch)
    rows = await asyncio.to_thread(fill_gaps, pa.Table.from_batches(batches, planned.schema), gaps)
    parts = rows.to_batches() or [pa.RecordBatch.from_pylist([], schema=rows.schema)]
    return await session.in_planner(session.memory_table, parts)


async def _batches(session: Session, planned: Planned) -> AsyncGenerator[pa.RecordBatch, None]:
    from service.answer_schema import retyped

    for batch in planned.rows:
        yield batch
    if planned.plan is not None:
        async with aclosing(stream(session.running, planned.plan)) as batches:
            async for batch in batches:
                if batch.num_rows:
                    yield retyped(batch, planned.schema)
