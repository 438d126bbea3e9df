"""Columns as text, a whole column at a time: what the JSON and CSV encoders share.

`cells` turns an Arrow array into a `Cells`: the values as text without quotes, and how that text must be dressed.
No value is looked at by Python unless its type has no vectorised cast (binary, intervals, unions).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import UnsupportedError

__all__ = ["TEXT", "Cells", "cells", "json_text"]

TEXT = pa.large_string()
_UTC = frozenset({"UTC", "Z", "+00:00", "-00:00", "+0000", "Etc/UTC", "GMT", "Etc/GMT"})
_UNIT_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_CONTROLS = {"\n": "\\n", "\r": "\\r", "\t": "\\t"} | {
    chr(code): f"\\u{code:04x}" for code in range(32) if chr(code) not in "\n\r\t"
}


@dataclass(frozen=True, slots=True)
class Cells:
    """Values of one column as text.

    text : large_string[n], null where the value is null
    kind : "bare" is a JSON literal; "float" too, but for NaN and the infinities; "safe" needs quotes and no escapes;
        "string" needs both; "json" is nested JSON text
    """

    text: pa.Array
    kind: Literal["bare", "float", "safe", "string", "json"]


def cells(array: pa.Array) -> Cells:
    """Return the array's values as text. Raises `UnsupportedError` for a value that has no text form."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _extension(array)
    if pa.types.is_dictionary(kind):
        return cells(array.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return cells(pc.run_end_decode(array))
    for matches, render in _RENDER:
        if matches(kind):
            return render(array)
    return Cells(_each(array, lambda value: json.dumps(value, default=str, ensure_ascii=False)), "json")


def json_text(array: pa.Array) -> pa.Array:
    """Return large_string[n]: each value as JSON text, null where the value is null."""
    found = cells(array)
    if found.kind == "string":
        return _quote(_escape(found.text))
    if found.kind == "safe":
        return _quote(found.text)
    if found.kind == "float":
        special = pc.or_(pc.ends_with(found.text, "N"), pc.ends_with(found.text, "y"))
        return pc.if_else(special, _quote(found.text), found.text) if pc.any(special).as_py() else found.text
    return found.text


def _quote(text: pa.Array) -> pa.Array:
    return _join('"', text, '"')


def _join(*parts: pa.Array | str) -> pa.Array:
    """Concatenate element by element; null where any part is null."""
    scalars = [pa.scalar(part, TEXT) if isinstance(part, str) else part for part in parts]
    return pc.binary_join_element_wise(*scalars, pa.scalar("", TEXT))


def _escape(text: pa.Array) -> pa.Array:
    if not pc.any(pc.match_substring_regex(text, r'["\\\x00-\x1f]')).as_py():
        return text
    text = pc.replace_substring(pc.replace_substring(text, "\\", "\\\\"), '"', '\\"')
    for control, escape in _CONTROLS.items():
        if pc.any(pc.match_substring(text, control)).as_py():
            text = pc.replace_substring(text, control, escape)
    return text


def _each(array: pa.Array, render: Callable[[Any], str]) -> pa.Array:
    return pa.array([None if value is None else render(value) for value in array.to_pylist()], TEXT)


def _cast(array: pa.Array) -> pa.Array:
    return pc.cast(array, TEXT)


def _bare(array: pa.Array) -> Cells:
    return Cells(_cast(array), "bare")


def _string(array: pa.Array) -> Cells:
    return Cells(_cast(array), "string")


def _safe(array: pa.Array) -> Cells:
    return Cells(_cast(array), "safe")


def _float(array: pa.Array) -> Cells:
    if pa.types.is_float16(array.type):
        array = pc.cast(array, pa.float32())
    text = _cast(array)
    negative = pc.equal(text, pa.scalar("-0", TEXT))
    if pc.any(negative).as_py():
        # Readers of JSON take -0 for an integer, which has no sign.
        text = pc.if_else(negative, pa.scalar("-0.0", TEXT), text)
    if not pc.all(pc.is_finite(array)).as_py():
        for name, ours in (("nan", "NaN"), ("inf", "Infinity")):
            text = pc.replace_substring(text, name, ours)
        text = pc.if_else(pc.is_nan(array), pa.scalar("NaN", TEXT), text)
    return Cells(text, "float")


def _decimal(array: pa.Array) -> Cells:
    text = _cast(array)
    if pc.any(pc.match_substring(text, "E")).as_py():
        text = _each(array, lambda value: format(value, "f"))
    return Cells(text, "safe")


def _timestamp(array: pa.Array) -> Cells:
    zone = array.type.tz
    naive = pc.cast(array, pa.timestamp(array.type.unit))
    if zone is None:
        return Cells(_iso(naive), "safe")
    if zone in _UTC:
        return Cells(_join(_iso(naive), "Z"), "safe")
    local = pc.local_timestamp(array)
    minutes = pc.cast(pc.subtract(local, naive), pa.duration("us"), safe=False)
    offset = pc.cast(minutes, pa.int64()).to_numpy(zero_copy_only=False)
    if np.any(np.nan_to_num(offset.astype(np.float64)) % 60_000_000):
        return Cells(_join(_iso(naive), "Z"), "safe")  # an offset with seconds (before standard time) has no ISO form
    return Cells(_join(_iso(local), _offset_text(offset)), "safe")


def _offset_text(offset_us: np.ndarray) -> pa.Array:
    values, inverse = np.unique(np.nan_to_num(offset_us.astype(np.float64)).astype(np.int64), return_inverse=True)
    names = []
    for value in (values // 60_000_000).tolist():
        hours, minutes = divmod(abs(value), 60)
        names.append(f"{'-' if value < 0 else '+'}{hours:02}:{minutes:02}")
    return pa.array(names, TEXT).take(pa.array(inverse.reshape(-1)))


def _iso(naive: pa.Array) -> pa.Array:
    text = _cast(naive)
    if pc.any(pc.starts_with(text, "<")).as_py():
        raise UnsupportedError(
            "the result holds a timestamp beyond what ISO 8601 text can say; ask for the arrow or parquet format"
        )
    return pc.replace_substring(text, " ", "T")


def _duration(array: pa.Array) -> Cells:
    scale = 10 ** _UNIT_DIGITS[array.type.unit]
    digits = _UNIT_DIGITS[array.type.unit]
    return Cells(_each(pc.cast(array, pa.int64()), lambda ticks: "PT" + _seconds(ticks, scale, digits) + "S"), "safe")


def _seconds(ticks: int, scale: int, digits: int) -> str:
    whole, rest = divmod(abs(ticks), scale)
    fraction = f".{rest:0{digits}}".rstrip("0") if rest else ""
    return f"{'-' if ticks < 0 else ''}{whole}{fraction}"


def _interval(array: pa.Array) -> Cells:
    def render(value: Any) -> str:
        date = (f"{value.months}M" if value.months else "") + (f"{value.days}D" if value.days else "")
        if value.nanoseconds or not date:
            return f"P{date}T{_seconds(value.nanoseconds, 10**9, 9)}S"
        return f"P{date}"

    return Cells(_each(array, render), "safe")


def _binary(array: pa.Array) -> Cells:
    return Cells(_each(array, lambda value: base64.b64encode(value).decode("ascii")), "safe")


def _extension(array: pa.Array) -> Cells:
    if array.type.extension_name == "arrow.uuid":
        return Cells(_each(array, str), "safe")
    return cells(array.storage)


def _list(array: pa.Array) -> Cells:
    as_list = pc.cast(array, pa.large_list(array.type.value_type))
    lengths = pc.fill_null(pc.list_value_length(as_list), 0).to_numpy(zero_copy_only=False)
    return Cells(_bracket(array, lengths, json_text(pc.list_flatten(as_list)), "[", "]"), "json")


def _bracket(array: pa.Array, lengths: np.ndarray, items: pa.Array, opening: str, closing: str) -> pa.Array:
    """Join each row's items with commas between brackets; null where ``array`` is null."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    filled = pc.fill_null(items, pa.scalar("null", TEXT))
    joined = _join(opening, pc.binary_join(_small_lists(offsets, filled), pa.scalar(",", TEXT)), closing)
    return pc.if_else(array.is_valid(), joined, pa.scalar(None, TEXT)) if array.null_count else joined


def _small_lists(offsets: np.ndarray, items: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), items)


def _struct(array: pa.Array) -> Cells:
    parts: list[pa.Array | str] = []
    for position, (field, child) in enumerate(zip(array.type, array.flatten(), strict=True)):
        parts += [("," if position else "{") + json.dumps(field.name, ensure_ascii=False) + ":"]
        parts += [pc.fill_null(json_text(child), pa.scalar("null", TEXT))]
    text = _join(*parts, "}") if parts else pa.array(["{}"] * len(array), TEXT)
    return Cells(pc.if_else(array.is_valid(), text, pa.scalar(None, TEXT)) if array.null_count else text, "json")


def _map(array: pa.Array) -> Cells:
    entries = pc.cast(array, pa.large_list(pa.struct([array.type.key_field, array.type.item_field])))
    lengths = pc.fill_null(pc.list_value_length(entries), 0).to_numpy(zero_copy_only=False)
    keys, items = pc.list_flatten(entries).flatten()
    names = json_text(keys)
    if cells(keys).kind not in ("string", "safe"):
        names = _quote(_escape(names))
    pairs = _join(names, ":", pc.fill_null(json_text(items), pa.scalar("null", TEXT)))
    return Cells(_bracket(array, lengths, pairs, "{", "}"), "json")


def _is_list(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (
            pa.types.is_list,
            pa.types.is_large_list,
            pa.types.is_fixed_size_list,
            pa.types.is_list_view,
            pa.types.is_large_list_view,
        )
    )


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_fixed_size_binary,
        )
    )


def _is_interval(kind: pa.DataType) -> bool:
    return bool(kind == pa.month_day_nano_interval())


_RENDER: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], Cells]], ...] = (
    (pa.types.is_integer, _bare),
    (_is_string, _string),
    (pa.types.is_floating, _float),
    (pa.types.is_decimal, _decimal),
    (pa.types.is_boolean, _bare),
    (pa.types.is_null, _bare),
    (pa.types.is_timestamp, _timestamp),
    (pa.types.is_date, _safe),
    (pa.types.is_time, _safe),
    (pa.types.is_duration, _duration),
    (_is_interval, _interval),
    (_is_binary, _binary),
    (_is_list, _list),
    (pa.types.is_struct, _struct),
    (pa.types.is_map, _map),
)
