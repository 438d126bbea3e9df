"""May we write to this table? Of the writer features exactly those whose duties we fulfil; the rest by name.

Source: Delta protocol, "Requirements for Writers" of each feature. A legacy writer version stands for its features;
those that only bind a table which uses them (constraints, generated columns) are refused where they are in use.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from storage.errors import UnsupportedError
from storage.tables.delta.actions import Metadata, Protocol
from storage.tables.write import Change

__all__ = ["WRITER_FEATURES", "check_allowed", "check_writable", "features_of", "is_true"]

WRITER_FEATURES = frozenset(
    {
        "appendOnly",
        "changeDataFeed",
        "checkConstraints",
        "columnMapping",
        "deletionVectors",
        "domainMetadata",
        "generatedColumns",
        "identityColumns",
        "inCommitTimestamp",
        "invariants",
        "timestampNtz",
        "typeWidening",
        "typeWidening-preview",
        "v2Checkpoint",
        "vacuumProtocolCheck",
        "variantShredding",
        "variantShredding-preview",
        "variantType",
        "variantType-preview",
    }
)
_LEGACY: dict[str, int] = {
    "appendOnly": 2,
    "invariants": 2,
    "checkConstraints": 3,
    "changeDataFeed": 4,
    "generatedColumns": 4,
    "columnMapping": 5,
    "identityColumns": 6,
}
"""Feature → the first writer version that implies it."""
_FEATURES_VERSION = 7
_COLUMN_DUTIES = {
    "delta.generationExpression": "generatedColumns",
    "delta.identity.start": "identityColumns",
    "delta.invariants": "invariants",
    "CURRENT_DEFAULT": "allowColumnDefaults",
}


def features_of(protocol: Protocol) -> frozenset[str]:
    """The writer features of a protocol, those that a legacy version stands for too."""
    if protocol.min_writer_version >= _FEATURES_VERSION:
        return protocol.writer_features or frozenset()
    return frozenset(name for name, version in _LEGACY.items() if version <= protocol.min_writer_version)


def check_writable(table: str, protocol: Protocol, metadata: Metadata) -> None:
    """Return if we fulfil every duty of a writer of this table. Raises `UnsupportedError` naming the feature."""
    if protocol.min_writer_version > _FEATURES_VERSION:
        raise UnsupportedError(
            "the delta table needs a newer writer version than Firnline knows",
            table=table,
            writer_version=protocol.min_writer_version,
        )
    unknown = features_of(protocol) - WRITER_FEATURES
    if unknown:
        raise _refused(table, ",".join(sorted(unknown)))
    for name in metadata.configuration:
        if name.startswith("delta.constraints."):
            raise _refused(table, "checkConstraints", property=name)
    for column, tags in _column_tags(metadata.schema_json):
        for tag, feature in _COLUMN_DUTIES.items():
            if tag in tags:
                raise _refused(table, feature, column=column)


def check_allowed(table: str, metadata: Metadata, change: Change) -> None:
    """Return if the table's properties allow the change. Raises `UnsupportedError` naming the property."""
    if not change.remove or not change.data_change:
        return
    if is_true(metadata, "delta.appendOnly"):
        raise UnsupportedError(
            "the delta table only takes appends; set delta.appendOnly to false first",
            table=table,
            operation=change.operation,
        )
    if change.add and is_true(metadata, "delta.enableChangeDataFeed"):
        raise UnsupportedError(
            "the delta table keeps a change data feed, which Firnline does not write for changed rows; "
            "set delta.enableChangeDataFeed to false first",
            table=table,
            operation=change.operation,
        )


def is_true(metadata: Metadata, name: str) -> bool:
    """Whether a boolean property is set."""
    return metadata.configuration.get(name, "false").lower() == "true"


def _refused(table: str, feature: str, **facts: str) -> UnsupportedError:
    return UnsupportedError(
        "the delta table uses a writer feature that Firnline does not support", table=table, feature=feature, **facts
    )


def _column_tags(schema_json: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every struct field's name and metadata, at all levels."""
    todo: list[Any] = [json.loads(schema_json)] if schema_json else []
    while todo:
        node = todo.pop()
        if not isinstance(node, dict):
            continue
        for field in node.get("fields") or ():
            yield str(field.get("name")), field.get("metadata") or {}
            todo.append(field.get("type"))
        todo += [node.get("elementType"), node.get("keyType"), node.get("valueType")]
