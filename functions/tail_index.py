"""Rows of a table's tail by their keys, without a look at the other rows.

An index is a few *levels*: hashes of keys in order, each with its row's id (`functions.tail_rows`). New rows are a
level of their own, and levels of like size are merged, so an index is brought forward at the price of what is new. The
newest rows are in no level yet; their hashes are compared one by one. What a level says is a hint: an id that the
tail's state does not have is passed over, and the keys themselves are compared.

1. An index serves the state that it was last brought forward for and all later ones of its line. An earlier state, of a
   statement that has been running meanwhile, is looked through without it.
2. It is made when it is first asked for, and anew once most of its ids are of rows that are no more.
3. Levels never change, so whoever holds an index needs no lock; of two that are made at once, either will do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from functions.keys import key_hashes
from functions.tail import TableTail
from functions.tail_rows import Run, TailRows

__all__ = ["Level", "TailHits", "find", "level_of", "prepare", "with_level"]

_FRESH_ROWS = 4_096
"""So many hashes are compared one by one in the time that an index takes to be brought forward by them."""
_SPARE_ROWS = 1 << 16
_HERE_ROWS = 1 << 16
"""So many are indexed in about ten milliseconds."""
_FEW_KEYS = 8

Level = tuple[np.ndarray, np.ndarray]
"""uint64[n] hashes, not decreasing, and int64[n] ids of rows."""


@dataclass(frozen=True)
class TailHits:
    """What a tail knows of keys.

    rows : live rows whose key is among them, in the tail's columns and order
    touched : bool[k]; the key was written or deleted in the tail, so no row of it in the table's files is live. Said of
        the primary key only, and False for any other columns: then ask again with the primary keys of the rows that
        the files have.
    """

    rows: pa.Table
    touched: np.ndarray


@dataclass(frozen=True)
class _Index:
    """Levels over all rows with ids below ``limit`` that the state of number ``number`` has."""

    number: int = 0
    limit: int = 0
    levels: tuple[Level, ...] = ()

    def __len__(self) -> int:
        return sum(len(ids) for _hashes, ids in self.levels)


def find(tail: TableTail, names: Sequence[str], keys: pa.Table) -> TailHits:
    """Return the rows of the tail whose key is one of ``keys``, as SQL's ``=`` sees it: NULL and NaN equal nothing.

    The first call for a tail indexes it (about 0.2 s for a million rows, see `prepare`); later calls, for this and
    later states of it, cost what is new.

    Parameters
    ----------
    names : columns of the key, as the tail names them
    keys : these columns, in the tail's types

    Raises
    ------
    UnsupportedError : a column whose type cannot be a key
    """
    names = tuple(names)
    source = tail.source
    touched = np.zeros(keys.num_rows, dtype=bool)
    if source is None or not source.runs:
        return TailHits(tail.row_schema.empty_table(), touched)
    nothing = TailHits(source.runs[0].rows.slice(0, 0), touched)
    if not keys.num_rows:
        return nothing
    queries, ids = _candidates(source, names, key_hashes(keys, names))
    if not len(ids):
        return nothing
    wanted = _unique(ids)
    rows, kept, deleted = _rows_at(source, wanted)
    if not len(kept):
        return nothing
    places = np.minimum(kept.searchsorted(ids), len(kept) - 1)
    there = kept[places] == ids
    if not there.all():
        queries, places = queries[there], places[there]
    equal = _equal(rows, places, keys, queries, names)
    if not equal.all():
        queries, places = queries[equal], places[equal]
    if set(names) == set(source.keys_named):
        touched[queries] = True
    live = np.zeros(len(kept), dtype=bool)
    live[places] = True
    live &= ~deleted
    return TailHits(rows if live.all() else rows.filter(pa.array(live)), touched)


async def prepare(tail: TableTail, names: Sequence[str]) -> None:
    """Do what the next `find` of these columns would do beforehand, in a thread if it takes long.

    To be awaited before `find` is called on an event loop, which an index of a million rows would hold up.
    """
    names, source = tuple(names), tail.source
    if source is not None and source.runs and _n_fresh(source, names) > _HERE_ROWS:
        await asyncio.to_thread(_index_of, source, names)


def _candidates(source: TailRows, names: tuple[str, ...], hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs that may meet: numbers of keys and ids of rows, int64[p] each."""
    index = _index_of(source, names)
    # Keys in order walk through a level once; in any order each begins anew.
    order = np.argsort(hashes)
    asked = hashes[order]
    found = [_probe(level, asked) for level in index.levels]
    found += _fresh(source, names, index.limit, asked)
    found = [pair for pair in found if len(pair[0])]
    if len(found) == 1:
        return order[found[0][0]], found[0][1]
    if not found:
        return _NONE
    return order[np.concatenate([places for places, _ids in found])], np.concatenate([ids for _places, ids in found])


def _probe(level: Level, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of places in ``asked`` (uint64[k], not decreasing) and ids."""
    ordered, ids = level
    first = ordered.searchsorted(asked)
    met = ordered[np.minimum(first, len(ordered) - 1)] == asked
    if not met.any():
        return _NONE
    places, first = np.flatnonzero(met), first[met]
    if (ordered[np.minimum(first + 1, len(ordered) - 1)] != ordered[first]).all():
        return places, ids[first]
    return _spread(places, first, ordered.searchsorted(asked[met], side="right"), ids)


_NONE = (np.empty(0, np.int64), np.empty(0, np.int64))


def _spread(
    numbers: np.ndarray, first: np.ndarray, limit: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each number once for each of ``values[first:limit]`` that it has, and these values."""
    counts = limit - first
    if (counts == 1).all():
        return numbers, values[first]
    starts = np.cumsum(counts) - counts
    places = np.arange(int(counts.sum())) + np.repeat(first - starts, counts)
    return np.repeat(numbers, counts), values[places]


def _fresh(
    source: TailRows, names: tuple[str, ...], limit: int, asked: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return likewise the pairs of the rows whose ids are not below ``limit``."""
    found = []
    for run, start in _parts_from(source, limit):
        there = _hashes(run, names, start)
        if len(asked) <= _FEW_KEYS:
            met = np.zeros(len(there), dtype=bool)
            for each in asked:
                met |= there == each
        else:
            met = asked[np.minimum(asked.searchsorted(there), len(asked) - 1)] == there
        rows = np.flatnonzero(met)
        if len(rows):
            first, last = asked.searchsorted(there[rows]), asked.searchsorted(there[rows], side="right")
            ids, places = _spread(run.ids[start:][rows], first, last, np.arange(len(asked)))
            found.append((places, ids))
    return found


def _parts_from(source: TailRows, limit: int) -> list[tuple[Run, int]]:
    """Return the runs that have rows with ids from ``limit`` on, each with the first such row."""
    first = max(0, int(source.first_ids.searchsorted(limit, side="right")) - 1)
    parts = [(run, int(run.ids.searchsorted(limit))) for run in source.runs[first : first + 1]]
    parts += [(run, 0) for run in source.runs[first + 1 :]]
    return [(run, start) for run, start in parts if start < len(run)]


def _hashes(run: Run, names: tuple[str, ...], start: int) -> np.ndarray:
    """Return the hashes of a run's keys from row ``start`` on."""
    if names == run.names:
        return run.hashes[start:]
    known = run.hashed.get(names)
    if known is None or known[0] > start:
        known = run.hashed[names] = (start, key_hashes(run.rows.slice(start), names))
    return known[1][start - known[0] :]


def _n_fresh(source: TailRows, names: tuple[str, ...]) -> int:
    """Return how many rows no index has."""
    held: _Index = source.line.indexes.get(names) or _Index()
    return sum(len(run) - start for run, start in _parts_from(source, held.limit))


def _index_of(source: TailRows, names: tuple[str, ...]) -> _Index:
    """Return an index that ``source`` may use, brought forward if many of its rows are new."""
    held: _Index = source.line.indexes.get(names) or _Index()
    if source.number < held.number:
        return _Index()
    if len(held) > 2 * sum(map(len, source.runs)) + _SPARE_ROWS:
        held = source.line.indexes[names] = _Index(source.number)
    if _n_fresh(source, names) <= _FRESH_ROWS:
        return held
    levels = with_level(held.levels, _level(source, names, held.limit))
    index = _Index(source.number, int(source.runs[-1].ids[-1]) + 1, levels)
    source.line.indexes[names] = index
    return index


def _level(source: TailRows, names: tuple[str, ...], limit: int) -> Level:
    parts = _parts_from(source, limit)
    hashes = np.concatenate([_hashes(run, names, start) for run, start in parts])
    ids = np.concatenate([run.ids[start:] for run, start in parts])
    if names != source.keys_named:
        # A NULL counts as zero or as nothing: many would be candidates for that key.
        valid = np.concatenate([_valid(run, names, start) for run, start in parts])
        hashes, ids = hashes[valid], ids[valid]
    for run, _start in parts:
        run.hashed.pop(names, None)
    return level_of(hashes, ids)


def level_of(hashes: np.ndarray, ids: np.ndarray) -> Level:
    """Return a level of rows in any order."""
    order = np.argsort(hashes)
    return hashes[order], ids[order]


def with_level(levels: Sequence[Level], new: Level) -> tuple[Level, ...]:
    """Return the levels with a new one, merged so that each is more than twice as large as the next."""
    found = [*levels, new] if len(new[1]) else [*levels]
    while len(found) > 1 and len(found[-2][1]) <= 2 * len(found[-1][1]):
        found[-2:] = [_merged(found[-2], found[-1])]
    return tuple(found)


def _valid(run: Run, names: tuple[str, ...], start: int) -> np.ndarray:
    valid = np.ones(len(run) - start, dtype=bool)
    for name in names:
        column = run.rows.column(name)
        if column.null_count:
            valid &= np.asarray(pc.is_valid(column))[start:]
    return valid


def _merged(older: Level, newer: Level) -> Level:
    hashes = np.concatenate([older[0], newer[0]])
    # A stable sort finds that there are two parts in order, and merges them.
    order = np.argsort(hashes, kind="stable")
    return hashes[order], np.concatenate([older[1], newer[1]])[order]


def _unique(ids: np.ndarray) -> np.ndarray:
    """Return the values in order, each once."""
    if len(ids) == 1:
        return ids
    ordered = np.sort(ids)
    new = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return ordered[new]


def _rows_at(source: TailRows, ids: np.ndarray) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """Return the rows of those of ``ids`` (int64[n], growing) that ``source`` has, these, and which are deletions."""
    run_of = source.first_ids.searchsorted(ids, side="right") - 1
    tables, kept, deleted = [], [], []
    for number in _unique(run_of[run_of >= 0]) if len(run_of) else ():
        run = source.runs[number]
        mine = ids[run_of == number]
        places = np.minimum(run.ids.searchsorted(mine), len(run) - 1)
        there = run.ids[places] == mine
        if not there.any():
            continue
        places = places[there]
        tables.append(run.rows.slice(int(places[0]), 1) if len(places) == 1 else run.rows.take(pa.array(places)))
        kept.append(mine[there])
        deleted.append(run.deleted[places])
    if not tables:
        return source.runs[0].rows.slice(0, 0), np.empty(0, np.int64), np.empty(0, dtype=bool)
    return pa.concat_tables(tables), np.concatenate(kept), np.concatenate(deleted)


def _equal(
    rows: pa.Table, places: np.ndarray, keys: pa.Table, queries: np.ndarray, names: tuple[str, ...]
) -> np.ndarray:
    """Return where the row at ``places`` has the key of number ``queries``: bool[p]."""
    equal = np.ones(len(places), dtype=bool)
    for name in names:
        row, key = _taken(rows.column(name), places), _taken(keys.column(name), queries)
        same = pc.equal(row, key if key.type == row.type else key.cast(row.type))
        equal &= np.asarray(same.fill_null(False))
    return equal


def _taken(column: pa.ChunkedArray, places: np.ndarray) -> pa.ChunkedArray:
    if len(places) == 1:
        return column.slice(int(places[0]), 1)
    return column.take(pa.array(places))
