"""Rows by their keys: keys of many kinds as JSON has them, and the answer with what was not found."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import math
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from firnline.result import ResultTable
from firnline.transport import Answer, Transport
from service.found import found_of
from service.statement import Route
from storage.errors import InvalidError

__all__ = ["LookupResult", "look_up", "wire_keys"]

Names = str | Sequence[str] | None


class LookupResult(ResultTable):
    """The rows of the keys that were found, in the order of the keys, as a `ResultTable`.

    A key that was asked for twice has its rows twice.
    """

    __slots__ = ("_found", "_keys")

    def __init__(self, table: pa.Table, answer: Answer, keys: list[Any], found: np.ndarray) -> None:
        super().__init__(table, answer)
        self._keys, self._found = keys, found

    @property
    def found(self) -> np.ndarray:
        """Whether each key was found, in the order asked: bool[k]."""
        return self._found

    @property
    def missing(self) -> list[Any]:
        """The keys that were not found, in the order asked; those of several columns as tuples."""
        return [self._keys[each] for each in np.flatnonzero(~self._found).tolist()]


def look_up(
    transport: Transport, table: str, keys: Any, *, by: Names, columns: Names, route: Route, timeout_ms: int | None
) -> LookupResult:
    """Find the rows; see `Connection.lookup`."""
    values, named = _values(keys)
    by = named if by is None else by
    answer = transport.lookup(
        table, wire_keys(values), by=_names(by), columns=None if columns is None else _names(columns), route=route,
        timeout_ms=timeout_ms,
    )  # fmt: skip
    found = found_of(answer.schema, len(values))
    rows = pa.Table.from_batches(answer.read_all(), answer.schema)
    return LookupResult(rows.replace_schema_metadata(None), answer, values, found)


def wire_keys(values: Iterable[Any]) -> list[Any]:
    """Return keys ready for JSON, each as JSON answers show it. Raises `InvalidError` for one that has no such form."""
    return [_wire(value, number) for number, value in enumerate(values, 1)]


def _names(given: Names) -> tuple[str, ...]:
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(given)


def _values(keys: Any) -> tuple[list[Any], Names]:
    """Return the keys as Python values, and their columns' names if they have some."""
    if isinstance(keys, str | bytes) or not (hasattr(keys, "__iter__") or isinstance(keys, pa.Table)):
        raise InvalidError("keys must be a sequence; write [key] for one", got=type(keys).__name__)
    if hasattr(keys, "to_arrow"):  # Polars
        keys = keys.to_arrow()
    elif type(keys).__module__.startswith("pandas"):
        keys = keys.to_numpy() if getattr(keys, "ndim", 1) == 1 else pa.Table.from_pandas(keys, preserve_index=False)
    if isinstance(keys, pa.RecordBatch):
        keys = pa.table(keys)
    if isinstance(keys, pa.Table):
        columns = [column.to_pylist() for column in keys.columns]
        rows = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        return list(rows), tuple(keys.column_names)
    if isinstance(keys, np.ndarray):
        if keys.ndim == 1 and keys.dtype.kind in "mM":
            keys = pa.array(keys)
        else:
            return [tuple(key) if isinstance(key, list) else key for key in keys.tolist()], None
    if isinstance(keys, pa.Array | pa.ChunkedArray):
        return keys.to_pylist(), None
    return [tuple(key) if isinstance(key, list) else key for key in keys], None


def _wire(value: Any, number: int) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else _special(value)
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case decimal.Decimal():
            return format(value, "f") if value.is_finite() else str(value)
        case uuid.UUID():
            return str(value)
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode()
        case tuple() | list():
            return [_wire(each, number) for each in value]
        case pa.Scalar():
            return _wire(value.as_py(), number)
        case np.datetime64():
            return _wire(pa.array(np.array([value]))[0].as_py(), number)
        case np.generic():
            return _wire(value.item(), number)
    raise InvalidError("a key has no JSON form", key=number, got=repr(value)[:80])


def _special(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
