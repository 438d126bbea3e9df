"""Metadata files: the first of a table, and the next one from updates, as pyiceberg's model applies them.

Source: Iceberg spec, "Table Metadata", "Table Metadata Fields".
"""

from __future__ import annotations

import gzip
import uuid
from collections.abc import Collection, Sequence
from typing import Any

import pydantic
from pyiceberg.exceptions import ValidationError
from pyiceberg.partitioning import PARTITION_FIELD_ID_START
from pyiceberg.table.metadata import TableMetadata, TableMetadataUtil, TableMetadataV2
from pyiceberg.table.update import (
    AddPartitionSpecUpdate,
    AddSchemaUpdate,
    AddSortOrderUpdate,
    RemovePropertiesUpdate,
    RemoveSnapshotsUpdate,
    SetCurrentSchemaUpdate,
    SetDefaultSortOrderUpdate,
    SetDefaultSpecUpdate,
    SetPropertiesUpdate,
    update_table_metadata,
)

from storage.errors import CorruptError, InvalidError, UnsupportedError
from storage.tables.iceberg import write_schema as shapes
from storage.tables.write import TableSpec

__all__ = ["WRITE_VERSION", "applied", "first_metadata", "parse_metadata", "removal", "serialized", "spec_updates"]

WRITE_VERSION = 2


def parse_metadata(data: bytes, source: str) -> TableMetadata:
    """Return the model of a metadata file that is to be changed.

    Raises
    ------
    CorruptError
        it cannot be read; the message names the file
    UnsupportedError
        it is of a format version that we do not write
    """
    try:
        text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        metadata = TableMetadataUtil.parse_raw(text.decode())
    except (ValueError, OSError, EOFError, ValidationError) as error:
        raise CorruptError("not a readable iceberg metadata file", file=source, reason=str(error)[:500]) from error
    if metadata.format_version != WRITE_VERSION:
        raise UnsupportedError(
            "only iceberg tables of format version 2 can be written", version=metadata.format_version, file=source
        )
    return metadata


def first_metadata(spec: TableSpec, location: str, now_ms: int) -> TableMetadata:
    """Return the metadata of a table without rows. Field ids are the spec's own."""
    schema = shapes.iceberg_schema(spec, 0)
    partitions, order = shapes.partition_spec(spec, 0), shapes.sort_order(spec, 1)
    shapes.check_sources(partitions, order, schema)
    return TableMetadataV2.model_validate(
        {
            "location": location,
            "table-uuid": uuid.UUID(hex=spec.table_id),
            "last-updated-ms": now_ms,
            "last-column-id": max(spec.last_column_id, schema.highest_field_id),
            "schemas": [schema],
            "current-schema-id": 0,
            "partition-specs": [partitions],
            "default-spec-id": 0,
            "last-partition-id": max((f.field_id for f in partitions.fields), default=PARTITION_FIELD_ID_START - 1),
            "properties": dict(shapes.without_ours(spec).properties),
            "sort-orders": [order],
            "default-sort-order-id": order.order_id,
        }
    )


def applied(metadata: TableMetadata, updates: Sequence[Any], before: str | None, now_ms: int) -> TableMetadata:
    """Return the metadata after ``updates``; ``before`` is the location of the file that it follows.

    Raises `InvalidError` if an update does not fit.
    """
    try:
        after = update_table_metadata(metadata, tuple(updates), enforce_validation=True, metadata_location=before)
    except (ValueError, KeyError, StopIteration, ValidationError, pydantic.ValidationError) as error:
        raise InvalidError("the table cannot be changed this way", reason=str(error)[:500]) from error
    return after.model_copy(update={"last_updated_ms": max(now_ms, metadata.last_updated_ms)})


def serialized(metadata: TableMetadata) -> bytes:
    """Return the bytes of a metadata file."""
    return metadata.model_dump_json(exclude_none=True).encode()


def spec_updates(
    metadata: TableMetadata, spec: TableSpec, properties_before: dict[str, str] | None = None
) -> list[Any]:
    """Return the updates that give the table the shape of ``spec``.

    Parameters
    ----------
    properties_before : those that the spec's author saw; properties that came later stay. None: the table's own

    Raises `UnsupportedError` and `InvalidError` as `write_schema.check_evolution` does.
    """
    updates: list[Any] = [*_schema_updates(metadata, spec), *_partition_updates(metadata, spec)]
    updates += _order_updates(metadata, spec)
    return updates + _property_updates(dict(metadata.properties), spec, properties_before)


def _schema_updates(metadata: TableMetadata, spec: TableSpec) -> list[Any]:
    current = metadata.schema()
    wanted = shapes.iceberg_schema(spec, max(schema.schema_id for schema in metadata.schemas) + 1)
    if shapes.same_fields(wanted, current):
        return []
    shapes.check_evolution(current, wanted, metadata.last_column_id)
    known = next((schema for schema in metadata.schemas if shapes.same_fields(wanted, schema)), None)
    if known is not None:
        return [SetCurrentSchemaUpdate.model_validate({"schema-id": known.schema_id})]
    current_update = SetCurrentSchemaUpdate.model_validate({"schema-id": wanted.schema_id})
    return [AddSchemaUpdate(schema=wanted), current_update]


def _partition_updates(metadata: TableMetadata, spec: TableSpec) -> list[Any]:
    wanted = shapes.partition_spec(spec, max(metadata.specs()) + 1, metadata)
    if wanted.fields == metadata.spec().fields:
        return []
    known = next((each for each in metadata.partition_specs if each.fields == wanted.fields), None)
    if known is not None:
        return [SetDefaultSpecUpdate.model_validate({"spec-id": known.spec_id})]
    return [AddPartitionSpecUpdate(spec=wanted), SetDefaultSpecUpdate.model_validate({"spec-id": wanted.spec_id})]


def _order_updates(metadata: TableMetadata, spec: TableSpec) -> list[Any]:
    number = max(order.order_id for order in metadata.sort_orders) + 1
    wanted = shapes.sort_order(spec, number)
    if wanted.fields == metadata.sort_order().fields:
        return []
    known = next((each for each in metadata.sort_orders if each.fields == wanted.fields), None)
    chosen = SetDefaultSortOrderUpdate.model_validate({"sort-order-id": (known or wanted).order_id})
    return [chosen] if known else [AddSortOrderUpdate.model_validate({"sort-order": wanted}), chosen]


def _property_updates(now: dict[str, str], spec: TableSpec, before: dict[str, str] | None) -> list[Any]:
    seen = now if before is None else before
    wanted = shapes.without_ours(spec).properties
    changed = {key: value for key, value in wanted.items() if seen.get(key) != value and now.get(key) != value}
    gone = [key for key in seen if key not in wanted and key in now and not key.startswith(shapes.OURS)]
    updates: list[Any] = [SetPropertiesUpdate(updates=changed)] if changed else []
    return [*updates, RemovePropertiesUpdate(removals=gone)] if gone else updates


def removal(metadata: TableMetadata, doomed: Collection[int]) -> list[Any]:
    """Return the update that takes out those of the snapshots that are still there and that no branch or tag names."""
    named = {ref.snapshot_id for ref in metadata.refs.values()}
    numbers = [each.snapshot_id for each in metadata.snapshots if each.snapshot_id in doomed]
    numbers = [number for number in numbers if number not in named]
    return [RemoveSnapshotsUpdate.model_validate({"snapshot-ids": numbers})] if numbers else []
