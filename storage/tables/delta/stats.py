"""Statistics of data files: from JSON text, or from the parsed struct of a checkpoint, as columns.

JSON is decoded once, in bulk, when the first column is asked for; large texts are dropped then. Bounds are made safe
(`widen`): they may be wider than the data, never narrower. A float maximum says nothing about NaN, as in Parquet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.tables.delta.values import parse_strings_leniently
from storage.tables.delta.write_stats import WITHOUT_NAN

__all__ = ["FileStats", "RawColumn", "widen"]

_KEEP_TEXT_ROWS = 4096
"""Texts of so few files are kept after decoding, so that small batches can still be merged."""
_CHUNK_ROWS = 8192
_N_ROWS_FIRST = r'^\s*\{\s*"numRecords"\s*:\s*(?P<n>\d{1,18})\s*[,}]'


@dataclass(frozen=True, slots=True)
class RawColumn:
    """Statistics of one physical column as stored; arrays of equal length, null where a file has none.

    without_nan : bool per file, of a float column: the writer says that the file holds no NaN; None: it says so of none
    """

    minimum: pa.Array
    maximum: pa.Array
    null_count: pa.Array
    without_nan: np.ndarray | None = None

    def filter(self, mask: pa.Array) -> RawColumn:
        """Return the statistics of the files where ``mask`` is true."""
        sure = None if self.without_nan is None else self.without_nan[np.asarray(mask)]
        return RawColumn(self.minimum.filter(mask), self.maximum.filter(mask), self.null_count.filter(mask), sure)


class FileStats:
    """The statistics of a run of files. ``text`` and ``parsed`` may both be given; parsed wins where it has a value.

    text : string array of the protocol's per-file JSON, or None
    parsed : struct array with ``numRecords``, ``minValues``, … as a checkpoint's ``stats_parsed`` has it, or None
    """

    __slots__ = ("_columns", "_source", "n_rows", "tight")

    def __init__(self, text: pa.Array | None, parsed: pa.Array | None, n_files: int) -> None:
        # What is left to decode, as one reference: two threads may decode at once, and neither may see half of it.
        self._source: tuple[pa.Array | None, pa.Array | None] | None = (text, parsed)
        self._columns: dict[str, RawColumn] | None = None
        self.n_rows: np.ndarray = _n_rows(text, parsed, n_files)
        self.tight: np.ndarray | None = None

    @property
    def text(self) -> pa.Array | None:
        """The JSON texts while nothing else is needed to rebuild these statistics, else None."""
        text, parsed = self._source or (None, None)
        return text if parsed is None else None

    def filter(self, keep: np.ndarray) -> FileStats:
        """Return the statistics of the files where ``keep`` (bool[n]) is true."""
        mask = pa.array(keep)
        source, columns, tight = self._source, self._columns, self.tight
        kept = FileStats.__new__(FileStats)
        kept._source = None if source is None else (_filtered(source[0], mask), _filtered(source[1], mask))
        kept._columns = columns and {name: raw.filter(mask) for name, raw in columns.items()}
        kept.n_rows = self.n_rows[keep]
        kept.tight = None if tight is None else tight[keep]
        return kept

    def column(self, physical: str, wanted: Mapping[str, pa.DataType]) -> RawColumn | None:
        """Return the statistics of one column. ``wanted`` names all columns worth decoding (physical name → type)."""
        source = self._source
        if self._columns is None and source is not None:
            self._decode(*source, wanted)
        return (self._columns or {}).get(physical)

    def _decode(self, text: pa.Array | None, parsed: pa.Array | None, wanted: Mapping[str, pa.DataType]) -> None:
        columns, tight = ({}, None) if text is None else _decode_text(text, wanted)
        if parsed is not None:
            tight = _overlay_tight(parsed, tight)
            for name, kind in wanted.items():
                if raw := _from_struct(parsed, name, kind):
                    columns[name] = _coalesce(raw, columns.get(name))
        self.tight = tight
        self._columns = columns
        if len(self.n_rows) > _KEEP_TEXT_ROWS or parsed is not None:
            self._source = None


def _filtered(array: pa.Array | None, mask: pa.Array) -> pa.Array | None:
    return None if array is None else array.filter(mask)


def _n_rows(text: pa.Array | None, parsed: pa.Array | None, n_files: int) -> np.ndarray:
    counts = pa.nulls(n_files, pa.int64()) if text is None else _n_rows_of_text(text)
    if parsed is not None and (raw := _struct_path(parsed, "numRecords")) is not None:
        counts = pc.coalesce(raw.cast(pa.int64()), counts)
    return np.asarray(pc.fill_null(counts, -1).to_numpy(zero_copy_only=False), dtype=np.int64)


def _n_rows_of_text(text: pa.Array) -> pa.Array:
    """Most writers put ``numRecords`` first: a regular expression finds it; the other texts are decoded."""
    found = pc.struct_field(pc.extract_regex(text, _N_ROWS_FIRST), ["n"]).cast(pa.int64())
    missing = pc.and_(pc.is_null(found), pc.is_valid(text))
    if not pc.any(missing).as_py():
        return found
    counts = [_count(stats.get("numRecords")) for stats in _load(text.filter(missing).to_pylist(), float)]
    return pc.replace_with_mask(found, missing, pa.array(counts, pa.int64()))


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
    return value if is_count else None


def _decode_text(text: pa.Array, wanted: Mapping[str, pa.DataType]) -> tuple[dict[str, RawColumn], np.ndarray | None]:
    """Decode every wanted column of every text, some thousand files at a time to bound memory."""
    exact = any(pa.types.is_decimal(kind) for kind in wanted.values())
    chunks: dict[str, list[RawColumn]] = {name: [] for name in wanted}
    tight: list[bool] = []
    for start in range(0, len(text), _CHUNK_ROWS):
        stats = _load(text.slice(start, _CHUNK_ROWS).to_pylist(), Decimal if exact else float)
        tight.extend(one.get("tightBounds") is not False for one in stats)
        minima, maxima, nulls = (
            [_members(one, key) for one in stats] for key in ("minValues", "maxValues", "nullCount")
        )
        numbers = [_names(one.get(WITHOUT_NAN)) for one in stats]
        for name, kind in wanted.items():
            chunks[name].append(
                RawColumn(
                    _bounds([one.get(name) for one in minima], kind),
                    _bounds([one.get(name) for one in maxima], kind),
                    pa.array([_count(one.get(name)) for one in nulls], pa.int64()),
                    np.array([name in each for each in numbers]) if pa.types.is_floating(kind) else None,
                )
            )
    columns = {name: _concat(parts) for name, parts in chunks.items() if parts}
    return columns, None if all(tight) else np.array(tight)


def _names(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _load(texts: Sequence[str | None], parse_float: Callable[[str], Any]) -> list[dict[str, Any]]:
    """Decode many JSON texts in one call; one that is no JSON object (or absent) becomes ``{}``."""
    try:
        loaded = json.loads("[" + ",".join(text or "null" for text in texts) + "]", parse_float=parse_float)
    except (ValueError, RecursionError):
        loaded = []
    if len(loaded) != len(texts):
        loaded = [_load_one(text, parse_float) for text in texts]
    return [one if isinstance(one, dict) else {} for one in loaded]


def _load_one(text: str | None, parse_float: Callable[[str], Any]) -> Any:
    try:
        return json.loads(text or "null", parse_float=parse_float)
    except (ValueError, RecursionError):
        return None


def _members(stats: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    members = stats.get(key)
    return members if isinstance(members, dict) else {}


def _bounds(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Build a bound array from JSON values; a value of another kind becomes null."""
    if pa.types.is_binary(kind):
        return pa.nulls(len(values), kind)
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        texts = [value if isinstance(value, str) else None for value in values]
        return parse_strings_leniently(pa.array(texts, pa.string()), kind)
    if pa.types.is_decimal(kind):
        values = [_decimal(value) for value in values]
    elif pa.types.is_floating(kind):
        values = [None if value is None else _float(value) for value in values]
    elif pa.types.is_integer(kind):  # Arrow would cut a fraction off
        values = [value if isinstance(value, int) and not isinstance(value, bool) else None for value in values]
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return pa.concat_arrays([_one_bound(value, kind) for value in values])


def _one_bound(value: Any, kind: pa.DataType) -> pa.Array:
    try:
        return pa.array([value], kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return pa.nulls(1, kind)


def _float(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _decimal(value: Any) -> Decimal | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        return Decimal(str(value))
    except InvalidOperation:
        return None


def _struct_path(parsed: pa.Array, *path: str) -> pa.Array | None:
    """The nested field at ``path``, nulls of its parents included; None where the struct lacks it."""
    kind = parsed.type
    for name in path:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return None
        kind = kind.field(name).type
    return pc.struct_field(parsed, list(path))


def _from_struct(parsed: pa.Array, name: str, kind: pa.DataType) -> RawColumn | None:
    minimum, maximum = (_struct_path(parsed, key, name) for key in ("minValues", "maxValues"))
    nulls = _struct_path(parsed, "nullCount", name)
    if minimum is None and maximum is None and nulls is None:
        return None
    nulls = nulls if nulls is not None and pa.types.is_integer(nulls.type) else pa.nulls(len(parsed), pa.int64())
    return RawColumn(
        _cast_or_null(minimum, kind, len(parsed)), _cast_or_null(maximum, kind, len(parsed)), nulls.cast(pa.int64())
    )


def _cast_or_null(values: pa.Array | None, kind: pa.DataType, n_files: int) -> pa.Array:
    if values is None:
        return pa.nulls(n_files, kind)
    try:
        if pa.types.is_timestamp(kind) and pa.types.is_timestamp(values.type):
            return values.cast(pa.timestamp("us", values.type.tz), safe=False).cast(kind)
        return values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.nulls(n_files, kind)


def _overlay_tight(parsed: pa.Array, tight: np.ndarray | None) -> np.ndarray | None:
    flags = _struct_path(parsed, "tightBounds")
    if flags is None or not pa.types.is_boolean(flags.type):
        return tight
    base = pa.array(np.ones(len(parsed), dtype=bool) if tight is None else tight)
    merged = np.asarray(pc.coalesce(flags, base).to_numpy(zero_copy_only=False), dtype=bool)
    return None if merged.all() else merged


def _coalesce(first: RawColumn, second: RawColumn | None) -> RawColumn:
    if second is None:
        return first
    return RawColumn(
        pc.coalesce(first.minimum, second.minimum),
        pc.coalesce(first.maximum, second.maximum),
        pc.coalesce(first.null_count, second.null_count),
        second.without_nan,
    )


def _concat(parts: Sequence[RawColumn]) -> RawColumn:
    sure = [part.without_nan for part in parts if part.without_nan is not None]
    return RawColumn(
        pa.concat_arrays([part.minimum for part in parts]),
        pa.concat_arrays([part.maximum for part in parts]),
        pa.concat_arrays([part.null_count for part in parts]),
        np.concatenate(sure) if sure else None,
    )


def widen(raw: RawColumn, kind: pa.DataType, stats: FileStats) -> RawColumn:
    """Return ``raw``, a column of ``stats``, as ``kind`` (its logical type), with bounds that hold for every value.

    Timestamps are stored cut to milliseconds; a NaN bound is no bound; 0.0 and -0.0 are one value; a double may have
    been a float. Where bounds are not tight, a null count that is neither 0 nor all rows means nothing.
    """
    minimum = _cast_or_null(raw.minimum, kind, len(stats.n_rows))
    maximum = _cast_or_null(raw.maximum, kind, len(stats.n_rows))
    nulls = raw.null_count
    if pa.types.is_timestamp(kind):
        minimum, maximum = _widen_timestamps(minimum, maximum)
    elif pa.types.is_floating(kind):
        minimum, maximum = _widen_floats(minimum, maximum)
    if stats.tight is not None:
        known = pc.or_(pc.equal(nulls, 0), pc.equal(nulls, pa.array(stats.n_rows)))
        nulls = pc.if_else(pc.or_(pa.array(stats.tight), known), nulls, pa.scalar(None, pa.int64()))
    return RawColumn(minimum, maximum, nulls, raw.without_nan)


def _widen_timestamps(minimum: pa.Array, maximum: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Cutting moves a maximum down by up to 999 µs, and (towards zero) a minimum before 1970 up by as much."""
    low, high = minimum.cast(pa.int64()), maximum.cast(pa.int64())
    low = pc.if_else(pc.less(low, 0), pc.subtract(low, 999), low)
    return low.cast(minimum.type), pc.add(high, 999).cast(maximum.type)


def _widen_floats(minimum: pa.Array, maximum: pa.Array) -> tuple[pa.Array, pa.Array]:
    minimum, maximum = _number_or_null(minimum, -0.0), _number_or_null(maximum, 0.0)
    if not pa.types.is_float64(minimum.type):
        return minimum, maximum
    # A bound "3.4" of a file that was written before its column was widened stands for float32(3.4), which as a
    # double is 3.4000000953674316: widened by that rounding it holds for files of either type.
    low, high = (bound.cast(pa.float32(), safe=False).cast(pa.float64()) for bound in (minimum, maximum))
    return pc.min_element_wise(minimum, low), pc.max_element_wise(maximum, high)


def _number_or_null(bound: pa.Array, zero: float) -> pa.Array:
    bound = pc.if_else(pc.is_nan(bound), pa.scalar(None, bound.type), bound)
    return pc.if_else(pc.equal(bound, 0.0), pa.scalar(zero, bound.type), bound)
