"""Routes: whether an index finds the rows that a statement wants of a table, and whether that is cheaper than a scan.

A predicate that pins all columns of an index (`=`, IN, or a range of the first column of a learned one, if no other may
be NULL) says which keys are wanted. The index then says, without reading anything, which blocks of which files may have
them, so what a look-up would cost is known before it is begun. The statement's own filters run over the rows that it
finds, so a predicate may pin more keys than it wants, and never fewer.

What is not exactly a value of the column pins nothing, nor do NULL, NaN and floating-point zeros, which the engine
orders in its own way: they are scanned for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.indexes import IndexEntry
from functions.index.columns import column_names
from functions.index.models import Models
from functions.lookup import KeyRange, LookupPlan, Memory, Pinned, plan
from functions.predicate import And, Compare, In, Or, Predicate
from functions.records import plain
from service.statement import Route
from storage.tables.snapshot import Snapshot

__all__ = ["Asking", "Routed", "asked_of", "choose", "exact_values"]

KEYS_MAX = 100_000
"""Keys of one look-up; a statement that pins more is scanned for."""
REMOTE_REQUEST_BYTES = 256 << 10
"""What a request to an object store costs, as bytes: at 10 ms and 25 MB/s, what one stream reads meanwhile."""
LOCAL_REQUEST_BYTES = 16 << 10
"""What a read of a local file costs: 20 µs, in which 16 KiB are decoded."""
SCAN_BYTES = 1 << 20
"""What a scan costs before its first byte: it is planned, its files are opened and streams are started; 1 to 2 ms."""
SCAN_REQUESTS = 3
"""Of a scanned file: the engine asks for its size, and reads a column's pages in two or three ranges."""
LOOKUP_BYTE = 1.5
"""A look-up decodes in one thread, a scan in all."""


@dataclass(frozen=True)
class Asking:
    """What a statement asks of one table.

    predicates : of each of its scans; empty if that is not known
    columns : that it names
    wanted : bool[n_files], what pruning left
    keys : distinct keys that are asked for by themselves, in the columns' own types; then ``predicates`` do not count
    """

    snapshot: Snapshot
    indexes: Sequence[IndexEntry]
    predicates: Sequence[Predicate]
    columns: Sequence[str]
    wanted: np.ndarray
    keys: pa.Table | None = None


@dataclass(frozen=True)
class Routed:
    """How the rows of one table are found: by ``plan``, or by a scan where that is None, and why."""

    why: str
    plan: LookupPlan | None = None
    facts: Mapping[str, int | str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """For a receipt and for EXPLAIN."""
        if self.plan is None:
            return f"scan: {self.why}"
        return f"lookup: {self.why} " + " ".join(f"{key}={value}" for key, value in self.facts.items())


async def choose(models: Models, memory: Memory, asking: Asking, route: Route) -> Routed:
    """Return how the table's rows are found: by the index that costs least, if that is less than a scan.

    With the route "lookup" an index is taken wherever one pins, with "scan" none is.
    """
    if route == "scan":
        return Routed("asked for")
    if not asking.predicates and asking.keys is None:
        return Routed("the statement's filters are not known before it runs")
    best: tuple[float, IndexEntry, LookupPlan] | None = None
    reasons: dict[str, None] = {}
    for index in asking.indexes:
        found = await _by_index(models, memory, asking, index)
        if isinstance(found, str):
            reasons[f"{index.name}: {found}"] = None
            continue
        cost = _lookup_cost(found)
        if best is None or cost < best[0]:
            best = (cost, index, found)
        if found.n_requests <= 1 and not (asking.wanted & ~found.covered).any():
            break  # no other index can do with less
    if best is None:
        return Routed("; ".join(reasons))
    cost, index, found = best
    scan = _scan_cost(found)
    if route == "auto" and cost > scan:
        return Routed(f"cheaper, as {scan / max(cost, 1):.2f} of the look-up's {found.n_requests} reads of "
                      f"{found.n_bytes} bytes by {index.name}")  # fmt: skip
    return _routed(asking, index, found, f"costs {cost / scan:.2g} of a scan of its files")


async def _by_index(models: Models, memory: Memory, asking: Asking, index: IndexEntry) -> LookupPlan | str:
    """Return what a look-up by the index reads, or why it cannot be used."""
    asked = _asked(asking, index)
    if isinstance(asked, str):
        return asked
    coverage = await models.coverage(index, asking.snapshot)
    if coverage.reason or not coverage.segments:
        return coverage.reason or "covers no file yet"
    if asking.wanted.any() and not (coverage.covered & asking.wanted).any():
        return f"covers none of the {int(asking.wanted.sum())} files that statistics leave"
    found = plan(asking.snapshot, coverage, asked, asking.columns, asking.wanted, memory)
    if asking.wanted.any() and not found.covered.any():
        return "the files are not those that were indexed, by their etags or bytes"
    return found


def _asked(asking: Asking, index: IndexEntry) -> Pinned | KeyRange | str:
    """Return which keys of the index the statement wants, or why it pins none."""
    schema = asking.snapshot.schema
    names = column_names(index.columns, schema)
    if isinstance(names, str):
        return names
    if asking.keys is not None:
        if set(names) != set(asking.keys.column_names):
            return "is on other columns"
        return Pinned(asking.keys.select(list(names)))
    return asked_of(asking.predicates, [plain(schema.field(name)) for name in names], ranges=index.kind == "learned")


def _routed(asking: Asking, index: IndexEntry, found: LookupPlan, why: str) -> Routed:
    wanted = int(asking.wanted.sum())
    covered = int(found.covered.sum())
    facts: dict[str, int | str] = {"index": index.name, "kind": index.kind}
    if isinstance(found.asked, Pinned):
        facts["keys"] = found.asked.keys.num_rows
    else:
        facts["range_of"] = found.asked.column
    facts |= {
        "segments": found.n_segments, "files_covered": covered, "files_not_covered": wanted - covered,
        "blocks": found.n_blocks, "reads": found.n_requests, "bytes": found.n_bytes,
    }  # fmt: skip
    return Routed(why, found, facts)


def _request_bytes(snapshot: Snapshot) -> int:
    return LOCAL_REQUEST_BYTES if snapshot.location.startswith("file://") else REMOTE_REQUEST_BYTES


def _lookup_cost(found: LookupPlan) -> float:
    """Return the cost of a look-up, in bytes that a scan reads."""
    return found.n_requests * _request_bytes(found.snapshot) + found.n_bytes * LOOKUP_BYTE


def _scan_cost(found: LookupPlan) -> float:
    """Return what a scan of the look-up's files costs: their columns' share of the bytes."""
    files = found.snapshot.files
    share = min(1.0, max(1, len(found.columns)) / max(1, len(found.snapshot.schema)))
    n_bytes = float(files.sizes[found.covered].sum()) * share
    return SCAN_BYTES + int(found.covered.sum()) * SCAN_REQUESTS * _request_bytes(found.snapshot) + n_bytes


# What predicates pin


def asked_of(predicates: Sequence[Predicate], fields: Sequence[pa.Field], *, ranges: bool) -> Pinned | KeyRange | str:
    """Return the keys that all scans of a table together ask for, or why they pin none.

    Parameters
    ----------
    fields : columns of the index, in its order; nullable if they may be NULL
    ranges : whether the index finds ranges of its first column
    """
    found = [_pinned(predicate, fields) for predicate in predicates]
    if all(isinstance(each, Pinned) for each in found):
        return _together([each.keys for each in found if isinstance(each, Pinned)])
    why = next(each for each in found if isinstance(each, str))
    if not ranges:
        return why
    for each in fields[1:]:
        # Rows with NULL or NaN in one of its columns are in no index, and a range of the first would miss them.
        if each.nullable or pa.types.is_floating(each.type):
            return f"{why}, and {each.name} may be NULL or NaN, so that it finds no ranges of {fields[0].name}"
    spans = [_range(predicate, fields[0]) for predicate in predicates]
    first = spans[0]
    if first is None:
        return why
    if any(each != first for each in spans):
        return "the statement scans the table several times, for different ranges"
    return first


def _pinned(predicate: Predicate, fields: Sequence[pa.Field]) -> Pinned | str:
    columns: list[pa.Array] = []
    total = 1
    for each in fields:
        lists = [listed for term in _terms(predicate) if (listed := _values(term, each.name)) is not None]
        if not lists:
            return f"nothing pins {each.name}"
        values = exact_values(min(lists, key=len), each.type)
        if isinstance(values, str):
            return f"{each.name} {values}"
        columns.append(values)
        total *= len(values)
        if total > KEYS_MAX:
            return f"more than {KEYS_MAX} keys are asked for"
    if len(columns) > 1:
        places = np.array(list(itertools.product(*(range(len(values)) for values in columns))), dtype=np.int64)
        columns = [values.take(pa.array(places[:, at])) for at, values in enumerate(columns)]
    return Pinned(pa.Table.from_arrays(columns, schema=pa.schema([each.with_nullable(True) for each in fields])))


def _terms(predicate: Predicate) -> Iterable[Predicate]:
    if isinstance(predicate, And):
        for term in predicate.terms:
            yield from _terms(term)
    else:
        yield predicate


def _values(term: Predicate, column: str) -> list[Any] | None:
    """Return the values that the column has in every row that the term wants, or None."""
    match term:
        case Compare(name, "=", value) if name == column:
            return [value]
        case In(name, values) if name == column:
            return list(values)
        case Or(terms):
            lists = [_values(each, column) for each in terms]
            known = [each for each in lists if each is not None]
            return list(itertools.chain.from_iterable(known)) if len(known) == len(lists) else None
        case And(terms):
            return next((found for each in terms if (found := _values(each, column)) is not None), None)
        case _:
            return None


def exact_values(values: Sequence[Any], kind: pa.DataType) -> pa.Array | str:
    """Return distinct values in a column's type, or what is wrong with them."""
    try:
        array = pa.array(values, kind)
    except (pa.ArrowException, ValueError, OverflowError, TypeError):
        return f"is {kind}, and compared with a value that is not"
    if array.null_count:
        return "is compared with NULL"
    if pa.types.is_floating(kind):
        numbers = array.to_numpy()
        if (np.isnan(numbers) | (numbers == 0)).any():
            return "is compared with zero or NaN, which are scanned for"
    exact = array.to_pylist()
    if any((type(a) is not type(b) and isinstance(b, bool)) or a != b for a, b in zip(exact, values, strict=True)):
        return f"is {kind}, and compared with a value that is not exactly one"
    return pc.unique(array) if len(array) > 1 else array


def _together(tables: Sequence[pa.Table]) -> Pinned | str:
    if len(tables) == 1:
        return Pinned(tables[0])
    keys = pa.concat_tables(tables)
    keys = keys.group_by(keys.column_names, use_threads=False).aggregate([]).combine_chunks()
    return Pinned(keys) if keys.num_rows <= KEYS_MAX else f"more than {KEYS_MAX} keys are asked for"


def _range(predicate: Predicate, column: pa.Field) -> KeyRange | None:
    """Return the range of the column that the predicate stays in, or None if it has no bound."""
    low: Any = None
    high: Any = None
    for term in _terms(predicate):
        if not isinstance(term, Compare) or term.column != column.name:
            continue
        if isinstance(exact_values([term.value], column.type), str):
            continue
        if term.op in (">", ">=", "=") and (low is None or term.value > low):
            low = term.value
        if term.op in ("<", "<=", "=") and (high is None or term.value < high):
            high = term.value
    # The engine orders NaN above all numbers, and an index has none.
    if pa.types.is_floating(column.type) and (low is None or high is None or math.isinf(high)):
        return None
    return KeyRange(column.name, low, high) if low is not None or high is not None else None
