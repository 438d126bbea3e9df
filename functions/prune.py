"""Which files of a snapshot can hold a row that a predicate wants.

The answer errs on one side only: a file is dropped when its statistics or partition values *prove* that it holds no
such row. Evaluated for all files at once, one Arrow kernel call per comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from functions.predicate import And, Compare, In, IsNull, Or, Predicate, StartsWith, Unknown, between_numbers
from storage.tables.snapshot import ColumnStats, Snapshot

__all__ = ["may_match"]

_ALL = np.iinfo(np.int64).max
"""Null count of a column that is null in every row of its file, however many rows that is."""

IN_LIST_MAX = 256
"""Longer lists are pruned by their smallest and largest value only."""


def may_match(snapshot: Snapshot, predicate: Predicate) -> np.ndarray:
    """Return bool[n_files]: False where no row of the file can satisfy ``predicate``."""
    return _Pruner(snapshot).evaluate(predicate, frozenset())


class _Pruner:
    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.n_files = len(snapshot.files)
        self.everything = np.ones(self.n_files, dtype=bool)

    def evaluate(self, predicate: Predicate, numbers: frozenset[str]) -> np.ndarray:
        """Return which files to keep; rows whose value is NaN in a column of ``numbers`` are not wanted."""
        match predicate:
            case Unknown():
                return self.everything
            case And(terms):
                numbers |= between_numbers(predicate)
                return np.asarray(np.logical_and.reduce([self.everything, *(self.evaluate(t, numbers) for t in terms)]))
            case Or(terms):
                return np.asarray(np.logical_or.reduce([~self.everything, *(self.evaluate(t, numbers) for t in terms)]))
            case IsNull(column, negated):
                return self._is_null(column, negated)
            case Compare(column, op, value):
                nan = column not in numbers
                return self._with_value(column, value, lambda bounds, scalar: _compare(bounds, op, scalar, nan))
            case StartsWith(column, prefix):
                return self._starts_with(column, prefix)
            case In(column, values):
                return self._in(column, values)

    def _stats(self, column: str) -> ColumnStats | None:
        files = self.snapshot.files
        if column in files.partitions:
            values = files.partitions[column]
            null_count = pa.array(np.where(np.asarray(pc.is_null(values)), _ALL, 0))
            return ColumnStats(values, values, null_count, self.everything)
        return files.stats(column)

    def _with_value(self, column: str, value: Any, compare: Callable[[_Bounds, pa.Scalar], pa.Array]) -> np.ndarray:
        stats = self._stats(column)
        bounds = _bounds(stats) if stats is not None else None
        scalar = _scalar(value, bounds.minimum.type) if bounds is not None else None
        if stats is None or bounds is None or scalar is None:
            return self.everything
        try:
            kept = pc.fill_null(compare(bounds, scalar), True)
        except pa.ArrowNotImplementedError:  # a type that Arrow does not order
            return self.everything
        return np.asarray(np.logical_and(kept, ~self._all_null(stats)))

    def _all_null(self, stats: ColumnStats) -> np.ndarray:
        counts = np.asarray(pc.fill_null(stats.null_count, -1).cast(pa.int64()))
        n_rows = self.snapshot.files.n_rows
        return np.asarray((counts == _ALL) | ((counts >= 0) & (n_rows >= 0) & (counts >= n_rows)))

    def _is_null(self, column: str, negated: bool) -> np.ndarray:
        stats = self._stats(column)
        if stats is None:
            return self.everything
        if negated:
            return np.asarray(np.logical_not(self._all_null(stats)))
        return np.asarray(pc.fill_null(pc.not_equal(stats.null_count, 0), True))

    def _starts_with(self, column: str, prefix: str) -> np.ndarray:
        def compare(bounds: _Bounds, scalar: pa.Scalar) -> pa.Array:
            head = pc.utf8_slice_codeunits(bounds.minimum, 0, len(prefix))
            return pc.and_kleene(pc.less_equal(head, scalar), pc.greater_equal(bounds.maximum, scalar))

        return self._with_value(column, prefix, compare)

    def _in(self, column: str, values: tuple[Any, ...]) -> np.ndarray:
        if len(values) <= IN_LIST_MAX:
            return self.evaluate(Or(tuple(Compare(column, "=", value) for value in values)), frozenset())
        if any(value != value for value in values):  # NaN, which bounds leave out
            return self.everything
        try:
            smallest, largest = min(values), max(values)
        except TypeError:
            return self.everything
        return self.evaluate(And((Compare(column, ">=", smallest), Compare(column, "<=", largest))), frozenset())


@dataclass(frozen=True, slots=True)
class _Bounds:
    minimum: pa.Array
    maximum: pa.Array
    without_nan: np.ndarray | None


def _bounds(stats: ColumnStats) -> _Bounds:
    """Return the bounds in a type that can be compared; a bound of NaN is none."""
    if not pa.types.is_floating(stats.minimum.type):
        return _Bounds(stats.minimum, stats.maximum, stats.without_nan)
    wide = [bound.cast(pa.float64()) for bound in (stats.minimum, stats.maximum)]
    low, high = (pc.if_else(pc.is_nan(bound), pa.scalar(None, pa.float64()), bound) for bound in wide)
    return _Bounds(low, high, stats.without_nan)


def _scalar(value: Any, type_: pa.DataType) -> pa.Scalar | None:
    """Return the literal in the column's type, or None where that would change it."""
    if pa.types.is_null(type_) or pa.types.is_nested(type_) or (isinstance(value, float) and np.isnan(value)):
        return None
    try:
        scalar = pa.scalar(value, type_)
        return scalar if scalar.as_py() == value else None
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError, OverflowError, TypeError):
        return None


def _compare(stats: _Bounds, op: str, value: pa.Scalar, nan: bool) -> pa.Array:
    """Return bool or null per file.

    Bounds leave NaN out, which the engine orders above every number, or below if its sign bit is set. So those of a
    float column prove nothing about inequalities where ``nan`` may be wanted, but of files that are known to hold none.
    It also orders -0.0 below 0.0, which bounds do not tell apart.
    """
    if not pa.types.is_floating(value.type):
        return _within(stats, op, value)
    if value.as_py() == 0.0:
        op = {"<": "<=", ">": ">="}.get(op, op)
    if op == "=" or not nan:
        return _within(stats, op, value)
    sure = stats.without_nan
    none = pa.nulls(len(stats.minimum), pa.bool_())
    return none if sure is None else pc.if_else(pa.array(sure), _within(stats, op, value), none)


def _within(stats: _Bounds, op: str, value: pa.Scalar) -> pa.Array:
    """Return bool or null per file, for values that the bounds say all of."""
    match op:
        case "=":
            return pc.and_kleene(pc.less_equal(stats.minimum, value), pc.greater_equal(stats.maximum, value))
        case "<":
            return pc.less(stats.minimum, value)
        case "<=":
            return pc.less_equal(stats.minimum, value)
        case ">":
            return pc.greater(stats.maximum, value)
        case ">=":
            return pc.greater_equal(stats.maximum, value)
        case _ if pa.types.is_floating(value.type):
            return pa.nulls(len(stats.minimum), pa.bool_())
        case _:
            return pc.or_kleene(pc.not_equal(stats.minimum, value), pc.not_equal(stats.maximum, value))
