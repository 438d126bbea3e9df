"""Table properties that a statement may set: those of ``firn.`` are known, and have values that a fold can use.

A wrong value that was taken would only be found by the next fold, and hold up the log of every table.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

import pyarrow as pa

from storage.errors import InvalidError

__all__ = ["checked_properties", "property_name"]

_OWN, _STEERING = "firnline.", "firn."
_INT_MAX = 1 << 62


def property_name(name: str) -> str:
    """Return the name that a property is stored by: ``lookup`` is short for ``firn.lookup``."""
    return "firn.lookup" if name == "lookup" else name


def checked_properties(given: Mapping[str, str], schema: pa.Schema) -> dict[str, str]:
    """Return the properties by the names that they are stored by.

    Raises `InvalidError` naming one that is the table's own or unknown, or the value that it does not take.
    """
    properties = {property_name(name): value for name, value in given.items()}
    for name, value in properties.items():
        if name.startswith(_OWN):
            raise InvalidError("properties of firnline. are the table's own and cannot be set", property=name)
        if not name.startswith(_STEERING):
            continue
        if name not in _KNOWN:
            near = difflib.get_close_matches(name, _KNOWN, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_KNOWN)}"
            raise InvalidError(f"unknown table property; {hint}", property=name)
        fits, wanted = _KNOWN[name]
        if not fits(value):
            raise InvalidError(f"this table property is {wanted}", property=name, value=repr(value))
    for column in properties.get("firn.bloom_columns", "").split(","):
        if column.strip() and column.strip() not in schema.names:
            raise InvalidError(
                "firn.bloom_columns names a column that the table does not have", column=column.strip(),
                columns=", ".join(schema.names),
            )  # fmt: skip
    return properties


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < _INT_MAX


def _is_level(text: str) -> bool:
    return _is_count(text) and int(text) <= 22


def _is_hours(text: str) -> bool:
    try:
        return 0 <= float(text) < 24 * 365 * 100
    except ValueError:
        return False


def _is_bool(text: str) -> bool:
    return text.lower() in ("true", "false")


_KNOWN: dict[str, tuple[Callable[[str], bool], str]] = {
    "firn.target_file_bytes": (_is_count, "a whole number of bytes above zero"),
    "firn.row_group_rows": (_is_count, "a whole number of rows above zero"),
    "firn.compression_level": (_is_level, "a whole number from 1 to 22"),
    "firn.bloom_columns": (str.isprintable, "names of columns, with commas between"),
    "firn.retention_hours": (_is_hours, "a number of hours, up to a hundred years"),
    "firn.vacuum_unsafe": (_is_bool, "true or false"),
    "firn.lookup": (_is_bool, "true or false"),
    "firn.index_primary_key": (_is_bool, "true or false"),
}
