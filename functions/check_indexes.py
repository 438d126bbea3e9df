"""Indexes verified: their segments are there and whole, and keys of some files are where the index says.

An index that cannot be read costs speed alone, and the next compaction pass builds it anew: a warning. One that does
not find a row that is there would hide it: an error.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog.indexes import IndexEntry, Indexes
from catalog.kv import KV
from catalog.tables import TableEntry
from functions.check_report import Finding
from functions.index.models import Coverage, CoveredBy, Models
from functions.index.segment import Segment
from functions.newest import newest_snapshot
from storage.clock import Clock
from storage.errors import FirnlineError
from storage.stores import Stores
from storage.tables.snapshot import Snapshot

__all__ = ["CheckedIndexes", "check_indexes"]

_FILES_OF_SEGMENT = 4
_KEYS_OF_FILE = 5_000
_FILE_BYTES_MAX = 128 << 20
"""A larger file is read by a deep check only."""
_REBUILT = "the next compaction pass builds it anew; until then statements scan"
_WRONG = "DROP INDEX, or set firn.index_primary_key to false, until it is known why; then keep the files for a report"


@dataclass
class CheckedIndexes:
    """What was found of all indexes."""

    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


async def check_indexes(
    stores: Stores, kv: KV, clock: Clock, lake: str, entries: Sequence[TableEntry], *, deep: bool = False
) -> CheckedIndexes:
    """Verify the indexes of these tables. Keys are looked up of a few files of each segment, or with ``deep`` of all.

    Raises `FirnlineError` only when the catalog cannot be read; a table that cannot be loaded is left out, since its
    own check says so.
    """
    found = CheckedIndexes()
    indexes, models = Indexes(kv, clock), Models(kv, stores, lake)
    every = await indexes.all()
    for error in await indexes.damaged():
        found.findings.append(
            Finding("warning", str(error.facts.get("key")), error.message, "drop it, and create it anew")
        )
    by_id = {entry.id: entry for entry in entries}
    for table_id, mine in every.items():
        entry = by_id.get(table_id)
        if entry is None:
            what = f"{len(mine)} indexes of a table that the catalog does not name"
            found.findings.append(
                Finding("note", f"indexes of {table_id}", what, "the next compaction pass removes them")
            )
            continue
        try:
            snapshot = await newest_snapshot(stores, entry)
        except FirnlineError:
            continue
        for index in mine:
            await _check_index(stores, models, entry, index, snapshot, found, deep)
        models.forget([])
    return found


async def _check_index(
    stores: Stores, models: Models, entry: TableEntry, index: IndexEntry, snapshot: Snapshot, found: CheckedIndexes,
    deep: bool,
) -> None:  # fmt: skip
    where = f"{entry.namespace}.{entry.name}: index {index.name}"
    found.counts["indexes"] += 1
    for ref, segment in zip(index.segments, await models.segments(index), strict=True):
        found.counts["index_segments"] += 1
        if not isinstance(segment, Segment):
            what = f"segment {ref.id} cannot be read: {type(segment).__name__}: {segment}"
            found.findings.append(Finding("warning", where, what, _REBUILT))
    coverage = await models.coverage(index, snapshot)
    if not coverage.names and coverage.reason:
        remedy = "DROP INDEX; for a new type the next compaction pass builds it anew"
        found.findings.append(Finding("note", where, f"it is not used: {coverage.reason}", remedy))
    for by in coverage.segments:
        places = np.flatnonzero(by.files >= 0)
        chosen = places if deep else places[np.unique(np.linspace(0, len(places) - 1, _FILES_OF_SEGMENT).astype(int))]
        for place in chosen.tolist():
            await _check_file(stores, snapshot, coverage, by, place, where, found, deep)


async def _check_file(
    stores: Stores, snapshot: Snapshot, coverage: Coverage, by: CoveredBy, place: int, where: str,
    found: CheckedIndexes, deep: bool,
) -> None:  # fmt: skip
    location = by.segment.paths[place]
    if not deep and int(by.segment.sizes[place]) > _FILE_BYTES_MAX:
        return
    try:
        data = await stores.get(location)
        keys = await asyncio.to_thread(_keys, data, snapshot, coverage, by, place)
    except (FirnlineError, pa.ArrowException, OSError) as error:
        what = f"keys of {location} cannot be read: {error}"
        found.findings.append(Finding("warning", where, what, "see what the check says of the file"))
        return
    missing = await asyncio.to_thread(_missing, by.segment, place, keys, deep)
    found.counts["index_keys"] += keys.num_rows if deep else min(keys.num_rows, _KEYS_OF_FILE)
    if len(missing):
        what = f"{len(missing)} rows of {location} are not where it says, the first is row {missing[0]}"
        found.findings.append(Finding("error", where, what, _WRONG))


def _keys(data: bytes, snapshot: Snapshot, coverage: Coverage, by: CoveredBy, place: int) -> pa.Table:
    """Read the key's columns of a whole file by its own footer, not by the layout that the segment has."""
    from functions.index.read_keys import Source

    source = Source(snapshot, coverage.names)
    stored = source.stored(by.segment.layouts[place])
    if isinstance(stored, str):
        return pa.table({name: pa.array([], snapshot.schema.field(name).type) for name in coverage.names})
    rows = pq.ParquetFile(pa.BufferReader(data)).read(columns=sorted({each.name for each in stored}))
    return source.keys(rows, stored)


def _missing(segment: Segment, place: int, keys: pa.Table, deep: bool) -> np.ndarray:
    """Return the numbers of rows that the segment does not locate where they are; rows without a key are left out."""
    there = np.ones(keys.num_rows, dtype=bool)
    for column in keys.columns:
        there &= pc.is_valid(column).to_numpy()
        if pa.types.is_floating(column.type):
            there &= ~pc.is_nan(column).fill_null(False).to_numpy()
    rows = np.flatnonzero(there)
    if not deep and len(rows) > _KEYS_OF_FILE:
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, _KEYS_OF_FILE).astype(int))]
    if not len(rows):
        return rows
    located = segment.locate(keys.take(pa.array(rows)))
    at = rows[located.key]
    right = (located.file == place) & (located.start <= at) & (at < located.limit)
    seen = np.zeros(len(rows), dtype=bool)
    seen[located.key[right]] = True
    return rows[~seen]
