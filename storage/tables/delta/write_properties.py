"""A table's properties in Delta: what may be asked for, and our own that make a lake readable without its catalog.

``firnline.primary_key``, ``firnline.partition_by`` and ``firnline.order_by`` hold names as JSON. Other properties are
kept as their user wrote them; those of ``delta.`` have a meaning for every writer, so only known ones are taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

import pyarrow as pa

from storage.errors import InvalidError, UnsupportedError
from storage.tables.delta.write_schema import field_id
from storage.tables.write import TableSpec

__all__ = ["OWN_PREFIX", "check_properties", "columns_by_id", "interval_ms", "own_properties"]

OWN_PREFIX = "firnline."
_INTERVAL = re.compile(r"(?:interval\s+)?(\d+)\s+(millisecond|second|minute|hour|day|week)s?", re.IGNORECASE)
_UNIT_MS = {
    "millisecond": 1, "second": 1000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000, "week": 604_800_000,
}  # fmt: skip


def interval_ms(text: str) -> int | None:
    """Milliseconds of ``interval 7 days`` and the like; None if it is none."""
    match = _INTERVAL.fullmatch(text.strip())
    return None if match is None else int(match[1]) * _UNIT_MS[match[2].lower()]


def _is_bool(text: str) -> bool:
    return text.lower() in ("true", "false")


def _is_false(text: str) -> bool:
    return text.lower() == "false"


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 1 << 31


def _is_interval(text: str) -> bool:
    return interval_ms(text) is not None


_KNOWN: dict[str, tuple[Callable[[str], bool], str]] = {
    "delta.appendOnly": (_is_bool, "true or false"),
    "delta.autoOptimize.autoCompact": (_is_bool, "true or false"),
    "delta.autoOptimize.optimizeWrite": (_is_bool, "true or false"),
    "delta.checkpoint.writeStatsAsJson": (lambda text: text.lower() == "true", "true"),
    "delta.checkpoint.writeStatsAsStruct": (_is_bool, "true or false"),
    "delta.checkpointInterval": (_is_count, "a positive number of commits"),
    "delta.columnMapping.mode": (lambda text: text.lower() in ("none", "name"), "none or name"),
    "delta.dataSkippingNumIndexedCols": (lambda text: text == "-1" or text.isdigit(), "a number of columns, or -1"),
    "delta.deletedFileRetentionDuration": (_is_interval, "an interval such as 'interval 7 days'"),
    "delta.enableChangeDataFeed": (_is_false, "false: Firnline's feed is read from the table's own history"),
    "delta.enableDeletionVectors": (_is_false, "false: Firnline rewrites files instead"),
    "delta.enableExpiredLogCleanup": (_is_bool, "true or false"),
    "delta.enableInCommitTimestamps": (_is_bool, "true or false"),
    "delta.logRetentionDuration": (_is_interval, "an interval such as 'interval 30 days'"),
    "delta.targetFileSize": (lambda text: bool(re.fullmatch(r"\d+\s*[kmgKMG]?i?[bB]?", text)), "a size in bytes"),
}


def check_properties(properties: Mapping[str, str]) -> None:
    """Raise `InvalidError` or `UnsupportedError` naming a property that cannot be set."""
    for name, value in properties.items():
        if name.startswith(OWN_PREFIX):
            raise InvalidError("properties of firnline. are the table's own and cannot be set", property=name)
        if not name.startswith("delta."):
            continue
        if name not in _KNOWN:
            raise UnsupportedError("Firnline does not support this delta property", property=name)
        valid, wanted = _KNOWN[name]
        if not valid(value):
            raise InvalidError("not a value that this delta property takes", property=name, value=value, wanted=wanted)


def columns_by_id(schema: pa.Schema) -> dict[int, pa.Field]:
    """Top-level fields by their ids."""
    return {number: field for field in schema if (number := field_id(field)) is not None}


def own_properties(spec: TableSpec) -> dict[str, str]:
    """The properties by which a table is known without a catalog. Raises `InvalidError` for an unknown column id."""
    columns = columns_by_id(spec.schema)
    found: dict[str, str] = {}
    if spec.primary_key:
        found["firnline.primary_key"] = json.dumps(list(spec.primary_key), ensure_ascii=False)
    if spec.partition_by:
        parts = [
            {"column": _name(columns, part.column_id), "transform": part.transform, "name": part.name}
            for part in spec.partition_by
        ]
        found["firnline.partition_by"] = json.dumps(parts, ensure_ascii=False)
    if spec.order_by:
        order = [{"column": _name(columns, sort.column_id), "descending": sort.descending} for sort in spec.order_by]
        found["firnline.order_by"] = json.dumps(order, ensure_ascii=False)
    return found


def _name(columns: Mapping[int, pa.Field], number: int) -> str:
    if number not in columns:
        raise InvalidError("a partition or sort field names a column that the table has not", column_id=number)
    return str(columns[number].name)
