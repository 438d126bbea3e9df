"""Rows by their keys: models → row ranges → ranged reads with the layout already known → decode → compare the keys.

`plan` says what would be read, without reading: routes are chosen by it and EXPLAIN shows it. `read` reads all files at
once and trusts nothing: a file that is not what was indexed (its etag differs, or its bytes do not decode) is named in
`Found.distrusted`, and each row's own key decides whether it is wanted (`functions.lookup_rows`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from functions.cpu_time import in_thread
from functions.index.models import Coverage
from functions.lookup_plan import FileRead, KeyRange, LookupPlan, Memory, Pinned, found_schema, plan, shape_of
from functions.lookup_rows import rows_of
from storage.errors import ConflictError, CorruptError
from storage.stores import Stores
from storage.tables.slices import plan_reads
from storage.tables.snapshot import LoadedDeletes, Snapshot

__all__ = ["FileRead", "Found", "KeyRange", "LookupPlan", "Memory", "Pinned", "found_schema", "lookup", "plan", "read"]

CONCURRENCY = 64
"""Files that are read and decoded at once."""
HERE_BYTES = 1 << 20
"""What is read and is not more is decoded on the event loop: a thread would cost more than it frees."""


@dataclass(frozen=True)
class Found:
    """Live rows of the covered files whose key is among those asked for, deletes applied.

    rows : the columns asked for and the key's, in the snapshot's order and types
    n_blocks, n_requests, n_bytes : that were read
    distrusted : numbers of files of the snapshot that are not what was indexed; their rows are not in ``rows``
    """

    rows: pa.Table
    n_blocks: int
    n_requests: int
    n_bytes: int
    distrusted: tuple[int, ...] = ()


async def lookup(
    stores: Stores, snapshot: Snapshot, coverage: Coverage, asked: Pinned | KeyRange, columns: Sequence[str],
    wanted: np.ndarray, memory: Memory | None = None,
) -> Found:  # fmt: skip
    """Return the rows of those files that ``coverage`` covers and ``wanted`` (bool[n_files]) names.

    Raises
    ------
    NotFoundError : a file is no more; the table moved on
    CorruptError : a file's delete information is damaged
    """
    memory = memory or Memory()
    return await read(stores, plan(snapshot, coverage, asked, columns, wanted, memory), memory)


async def read(stores: Stores, planned: LookupPlan, memory: Memory) -> Found:
    """Read what was planned. Raises as `lookup`."""
    snapshot = planned.snapshot
    waiting = asyncio.Semaphore(CONCURRENCY)
    deletes = await _load_deletes(stores, planned, memory)
    reads = [_with_deletes(snapshot, each, deletes.get(each.index), planned.columns) for each in planned.reads]

    here = sum(each.read.n_bytes for each in reads) <= HERE_BYTES

    async def one(each: FileRead) -> list[pa.RecordBatch] | None:
        """Return a file's rows, decoded while others are read; None: it is not to be trusted."""
        async with waiting:
            try:
                location = snapshot.files.paths[each.index]
                data = await stores.get_ranges(location, each.read.ranges, if_match=each.layout.etag, exact=True)
            except ConflictError:
                return None
            if here:
                return _decoded(planned, each, data, deletes.get(each.index))
            return await in_thread(_decoded, planned, each, data, deletes.get(each.index))

    if len(reads) == 1:
        parts: Sequence[list[pa.RecordBatch] | None] = [await one(reads[0])]
    else:
        parts = await asyncio.gather(*map(one, reads))
    doubted = [each for each, batches in zip(reads, parts, strict=True) if batches is None]
    for each in doubted:
        memory.distrust(snapshot.files.paths[each.index], each.layout.etag)
    return Found(
        pa.Table.from_batches([batch for batches in parts for batch in batches or ()], planned.schema),
        planned.n_blocks,
        sum(len(each.read.ranges) for each in reads),
        sum(each.read.n_bytes for each in reads),
        tuple(each.index for each in doubted),
    )


async def _load_deletes(stores: Stores, planned: LookupPlan, memory: Memory) -> dict[int, LoadedDeletes]:
    held = planned.snapshot.files.deletes
    indices = [each.index for each in planned.reads if each.index in held] if held else []
    loaded = await asyncio.gather(*(memory.deletes(stores, held[index]) for index in indices))
    return dict(zip(indices, loaded, strict=True))


def _with_deletes(snapshot: Snapshot, each: FileRead, deletes: LoadedDeletes | None, names: Sequence[str]) -> FileRead:
    """Return the read with the columns that its equality deletes compare."""
    if deletes is None or not deletes.equality:
        return each
    more = [field for delete in deletes.equality for field in delete.schema]
    shape = shape_of(snapshot, each.layout, names, more)
    return replace(each, shape=shape, read=plan_reads(each.layout, each.slices, shape.columns))


def _decoded(
    planned: LookupPlan, each: FileRead, data: list[bytes], deletes: LoadedDeletes | None
) -> list[pa.RecordBatch] | None:  # fmt: skip
    """Return the rows of a file; None if its bytes are not what its layout says."""
    try:
        return rows_of(planned, each, data, deletes)
    except CorruptError:
        return None
