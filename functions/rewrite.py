"""Files written anew without some of their rows (copy-on-write): deletes, updates, and the fold of upserts.

A file that loses a row is removed, and the rows it keeps are written together with the new ones; a file that loses all
is only removed. Nothing is committed here: the `Change` is for `storage.tables.write.TableWriter.commit`.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from functions.keys import key_columns, key_hashes
from functions.layout import LayoutSettings, TableFormat, write_files
from functions.live_rows import live_rows
from storage.clock import Clock
from storage.stores import Stores
from storage.tables.snapshot import Snapshot
from storage.tables.write import Change, TableSpec, Watermark

__all__ = ["drop_keys", "format_of", "rewrite_rows"]

_READS_AT_ONCE = 4


def format_of(snapshot: Snapshot) -> TableFormat:
    """Return the format of a table that we write."""
    return "iceberg" if snapshot.format == "iceberg" else "delta"


async def rewrite_rows(
    stores: Stores,
    clock: Clock,
    snapshot: Snapshot,
    spec: TableSpec,
    dropped: Mapping[int, np.ndarray],
    rows: pa.Table | None = None,
    *,
    operation: str,
    watermark: Watermark | None = None,
    facts: Mapping[str, str] | None = None,
    settings: LayoutSettings | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Change:
    """Write what is left of the files and the new rows, and return the change that puts them in place.

    Parameters
    ----------
    dropped : file index → bool[n], True for the rows to drop, n being the file's live rows as
        `functions.live_rows.live_rows` yields them
    rows : new rows, in the snapshot's columns
    progress : is told (files that are read again, of how many)
    """
    touched = {index: mask for index, mask in dropped.items() if mask.any()}

    async def kept() -> AsyncIterator[pa.RecordBatch]:
        for n_done, index in enumerate(sorted(touched, key=lambda index: snapshot.files.paths[index])):
            progress(n_done, len(touched))
            async for batch in _without(stores, snapshot, index, touched[index]):
                yield batch
        for batch in rows.to_batches() if rows is not None else ():
            yield pa.RecordBatch.from_arrays(batch.columns, schema=snapshot.schema)

    files = await write_files(
        stores, clock, snapshot.location, snapshot.schema, spec, kept(), settings, table_format=format_of(snapshot)
    )
    removed = tuple(snapshot.files.paths[index] for index in touched)
    return Change(operation, tuple(files), removed, watermark=watermark, facts=dict(facts or {}))


async def _without(stores: Stores, snapshot: Snapshot, index: int, drop: np.ndarray) -> AsyncIterator[pa.RecordBatch]:
    if drop.all():
        return
    start = 0
    async for batch in live_rows(stores, snapshot, index):
        mask = drop[start : start + batch.num_rows]
        start += batch.num_rows
        yield batch.filter(pa.array(~mask)) if mask.any() else batch


async def drop_keys(stores: Stores, snapshot: Snapshot, keys: pa.Table, names: Sequence[str]) -> dict[int, np.ndarray]:
    """Return the files that hold any of the keys, for `rewrite_rows`.

    Statistics say which files may; of those only the key's columns are read.

    Parameters
    ----------
    keys : columns ``names`` in the snapshot's types, each key once
    """
    if not keys.num_rows:
        return {}
    wanted = _Keys(keys, names)
    schema = pa.schema([snapshot.schema.field(name) for name in names])
    gate = asyncio.Semaphore(_READS_AT_ONCE)

    async def look(index: int) -> tuple[int, np.ndarray]:
        masks = [np.zeros(0, dtype=bool)]
        async with gate:
            async for batch in live_rows(stores, snapshot, index, schema):
                masks.append(await asyncio.to_thread(wanted.among, pa.Table.from_batches([batch])))  # noqa: PERF401
        return index, np.concatenate(masks)

    candidates = await asyncio.to_thread(_candidates, snapshot, keys, names)
    found = await asyncio.gather(*map(look, candidates))
    return {index: mask for index, mask in found if mask.any()}


class _Keys:
    """A set of keys that rows are looked up in: by hash first, and where hashes meet by value."""

    def __init__(self, keys: pa.Table, names: Sequence[str]) -> None:
        self._names = list(names)
        self._keys = key_columns(keys, names).replace_schema_metadata(None)
        self._hashes = np.sort(key_hashes(keys, names))

    def among(self, rows: pa.Table) -> np.ndarray:
        """Return bool[n]: the row's key is one of the set."""
        hashes = key_hashes(rows, self._names)
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        met = np.flatnonzero(self._hashes[at] == hashes)
        mask = np.zeros(rows.num_rows, dtype=bool)
        if len(met):
            candidates = key_columns(rows.take(pa.array(met)), self._names).append_column("\x00row", pa.array(met))
            same = candidates.join(self._keys, keys=self._names, join_type="left semi")
            mask[same.column("\x00row").to_numpy()] = True
        return mask


def _candidates(snapshot: Snapshot, keys: pa.Table, names: Sequence[str]) -> list[int]:
    """Return the files whose statistics do not exclude all of the keys."""
    may = np.ones(len(snapshot.files), dtype=bool)
    for name in names:
        bounds = _bounds(snapshot, name)
        if bounds is None:
            continue
        values = sorted(set(_ordered(keys.column(name)).to_pylist()))
        low, high = (_ordered(side).to_pylist() for side in bounds)
        for index in np.flatnonzero(may).tolist():
            may[index] = _any_within(values, low[index], high[index])
    return [int(index) for index in np.flatnonzero(may)]


def _bounds(snapshot: Snapshot, name: str) -> tuple[pa.Array, pa.Array] | None:
    partition = snapshot.files.partitions.get(name)
    if partition is not None:
        return partition, partition
    stats = snapshot.files.stats(name)
    return (stats.minimum, stats.maximum) if stats is not None else None


def _ordered(values: Any) -> Any:
    """Return values whose Python objects are cheap and order as the column does."""
    if pa.types.is_timestamp(values.type):
        return values.cast(pa.int64())
    if pa.types.is_date32(values.type):
        return values.cast(pa.int32())
    return values


def _any_within(values: list[Any], low: Any, high: Any) -> bool:
    if low is None or high is None:
        return True
    at = bisect_left(values, low)
    return at < len(values) and bool(values[at] <= high)
