"""The rows of a look-up out of the bytes that it read: decoded, compared with the keys, deleted ones left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from functions.lookup_plan import FileRead, KeyRange, LookupPlan, Pinned, key_names
from storage.tables.merge_on_read import equals_any, live_rows, with_ids
from storage.tables.project import constants_of, project_batch
from storage.tables.slices import Slice, SliceRead, decode, plan_reads
from storage.tables.snapshot import EqualityDelete, LoadedDeletes

__all__ = ["rows_of"]

_NARROWED_ROWS = 2_048
"""Of so many rows the key is decoded first, and the other columns only near the rows that are wanted."""
_SPREAD_ROWS = 1_024
"""Rows that are decoded for a row that is wanted: a page of each column."""


def rows_of(
    planned: LookupPlan, each: FileRead, parts: Sequence[bytes], deletes: LoadedDeletes | None
) -> list[pa.RecordBatch]:
    """Return the live rows of a file whose key is asked for, in the columns and types of ``planned.schema``.

    Parameters
    ----------
    parts : the bytes of ``each.read``

    Raises
    ------
    CorruptError : the bytes are not what the layout says, or do not fit the table's types
    """
    each, parts = _narrowed(planned, each, parts)
    found = (_matching(planned, each, first, batch, deletes) for first, batch in decode(each.layout, each.read, parts))
    return [batch for batch in found if batch is not None]


def _narrowed(planned: LookupPlan, each: FileRead, parts: Sequence[bytes]) -> tuple[FileRead, Sequence[bytes]]:
    """Return the part of the read that has the wanted rows, if the key's own columns say which these are."""
    names = key_names(planned.asked)
    sources = each.shape.sources
    n_rows = sum(part.limit - part.start for part in each.slices)
    if (
        sources is None or n_rows < _NARROWED_ROWS or not len(each.layout.chunks.page_row)
        or len(each.keys) * _SPREAD_ROWS * 2 > n_rows or len(each.shape.columns) <= len(names) + 1
    ):  # fmt: skip
        return each, parts
    columns = [sources[name] for name in names]
    key_read = plan_reads(each.layout, each.slices, columns)
    key_parts = _cut(each.read, parts, key_read)
    if key_parts is None:
        return each, parts
    slices = []
    for first, batch in decode(each.layout, key_read, key_parts):
        keys = _columns(planned, each, batch, names, {})
        rows = first + np.flatnonzero(_asked_for(planned.asked, each.keys, keys))
        slices += [Slice(row, row + 1) for row in rows.tolist()]
    read = plan_reads(each.layout, slices, each.shape.columns)
    cut = _cut(each.read, parts, read)
    return (each, parts) if cut is None else (replace(each, slices=tuple(slices), read=read), cut)


def _cut(read: SliceRead, parts: Sequence[bytes], inner: SliceRead) -> list[bytes] | None:
    """Return the bytes of another read of the same file, None if they are not all among those of this one."""
    found = []
    for start, limit in inner.ranges:
        at = next((at for at, (low, high) in enumerate(read.ranges) if low <= start and limit <= high), None)
        if at is None:
            return None
        base = read.ranges[at][0]
        found.append(parts[at][start - base : limit - base])
    return found


def _matching(
    planned: LookupPlan, each: FileRead, first_row: int, stored: pa.RecordBatch, deletes: LoadedDeletes | None
) -> pa.RecordBatch | None:
    """Return the live rows of a batch whose key is asked for, as `rows_of` does; None if there are none."""
    if each.shape.sources is not None and deletes is None:
        return _as_stored(planned, each, stored)
    snapshot = planned.snapshot
    constants = constants_of(snapshot, each.index) if each.shape.sources is None else {}
    batch = with_ids(stored, snapshot)
    keys = _columns(planned, each, batch, key_names(planned.asked), constants)
    places = np.flatnonzero(_asked_for(planned.asked, each.keys, keys))
    if not len(places):
        return None
    batch = _taken(batch, places)
    if deletes is not None:
        gone = np.flatnonzero(np.isin(first_row + places, deletes.positions))
        keep = live_rows(batch, 0, replace(deletes, positions=gone), constants_of(snapshot, each.index))
        if keep is not None:
            batch = batch.filter(pa.array(keep))
    if not batch.num_rows:
        return None
    found = _columns(planned, each, batch, planned.schema.names, constants)
    return pa.RecordBatch.from_arrays(found.columns, schema=planned.schema)


def _as_stored(planned: LookupPlan, each: FileRead, stored: pa.RecordBatch) -> pa.RecordBatch | None:
    """Do `_matching` where the stored columns are the table's own and no row is deleted."""
    sources = each.shape.sources
    assert sources is not None
    names = key_names(planned.asked)
    keys = pa.RecordBatch.from_arrays([stored.column(sources[name]) for name in names], names)
    places = np.flatnonzero(_asked_for(planned.asked, each.keys, keys))
    if not len(places):
        return None
    stored = _taken(stored, places)
    return pa.RecordBatch.from_arrays(
        [stored.column(sources[name]) for name in planned.schema.names], schema=planned.schema
    )


def _columns(
    planned: LookupPlan, each: FileRead, batch: pa.RecordBatch, names: Sequence[str],
    constants: Mapping[str, pa.Scalar],
) -> pa.RecordBatch:  # fmt: skip
    """Return columns of the table, of a batch of stored ones."""
    snapshot, sources = planned.snapshot, each.shape.sources
    schema = pa.schema([snapshot.schema.field(name) for name in names])
    if sources is None:
        return project_batch(batch, schema, snapshot.matching, constants)
    return pa.RecordBatch.from_arrays([batch.column(sources[name]) for name in names], schema=schema)


def _taken(batch: pa.RecordBatch, places: np.ndarray) -> pa.RecordBatch:
    if places[-1] - places[0] + 1 == len(places):
        return batch.slice(int(places[0]), len(places))
    return batch.take(pa.array(places))


def _asked_for(asked: Pinned | KeyRange, numbers: np.ndarray, rows: pa.RecordBatch) -> np.ndarray:
    """Return bool[rows]; ``rows`` has the columns of the key, or of a range its first."""
    if isinstance(asked, KeyRange):
        column = rows.column(0)
        mask = pc.is_valid(column)
        if asked.low is not None:
            mask = pc.and_(mask, pc.fill_null(pc.greater_equal(column, pa.scalar(asked.low, column.type)), False))
        if asked.high is not None:
            mask = pc.and_(mask, pc.fill_null(pc.less_equal(column, pa.scalar(asked.high, column.type)), False))
        return np.asarray(mask)
    if len(numbers) == 1:
        row = int(numbers[0])
        masks = [pc.equal(column, asked.keys.column(at)[row]) for at, column in enumerate(rows.columns)]
        mask = masks[0]
        for other in masks[1:]:
            mask = pc.and_(mask, other)
        return np.asarray(pc.fill_null(mask, False) if mask.null_count else mask)
    keys = asked.keys if len(numbers) == asked.keys.num_rows else asked.keys.take(pa.array(numbers))
    if rows.num_columns == 1:
        return np.asarray(pc.is_in(rows.column(0), value_set=keys.column(0).combine_chunks()))
    return equals_any(rows, EqualityDelete((), keys, rows.schema))
