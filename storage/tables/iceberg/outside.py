"""Commits that others make through the catalog: what they ask is checked, and applied as pyiceberg's model has it.

An outside commit may do what Iceberg allows, except what would harm rows that wait in the log:

* properties under ``firnline.`` are ours, the watermarks above all;
* the primary key stays, and columns change only as old rows can follow;
* the table stays at its location, in format version 2.

A commit whose snapshots are in the table already happened before: its reply was lost.

Source: Iceberg REST Catalog API, "CommitTableRequest", "TableRequirement", "TableUpdate", "CreateTableRequest".
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic
from pyiceberg.exceptions import CommitFailedException, ValidationError
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadata, TableMetadataV1, new_table_metadata
from pyiceberg.table.sorting import SortOrder
from pyiceberg.table.update import (
    AddSnapshotUpdate,
    AssertCreate,
    RemovePropertiesUpdate,
    SetLocationUpdate,
    SetPropertiesUpdate,
    TableRequirement,
    TableUpdate,
    UpgradeFormatVersionUpdate,
)

from storage.clock import Clock
from storage.errors import ConflictError, ForbiddenError, InvalidError, UnsupportedError
from storage.stores import Stores, normalize
from storage.tables.iceberg.attempt import Attempt, follow
from storage.tables.iceberg.write_metadata import WRITE_VERSION, applied, parse_metadata
from storage.tables.iceberg.write_schema import OURS, check_evolution, spec_of
from storage.tables.write import TableSpec

__all__ = ["OutsideCommit", "created_table", "outside_attempt", "parse_commit", "registered_table", "staged_table"]

_FORMAT_VERSION = "format-version"
_REQUIREMENTS = pydantic.TypeAdapter(tuple[TableRequirement, ...])
_UPDATES = pydantic.TypeAdapter(tuple[TableUpdate, ...])


@dataclass(frozen=True)
class OutsideCommit:
    """What a client asks: ``updates`` if the ``requirements`` hold."""

    requirements: Sequence[Any]
    updates: Sequence[Any]

    @property
    def creates(self) -> bool:
        """Whether it makes the table."""
        return any(isinstance(each, AssertCreate) for each in self.requirements)


def parse_commit(document: Mapping[str, Any]) -> OutsideCommit:
    """Return the commit of a request's body. Raises `InvalidError`."""
    try:
        return OutsideCommit(
            _REQUIREMENTS.validate_python(document.get("requirements") or []),
            _UPDATES.validate_python(document.get("updates") or []),
        )
    except (pydantic.ValidationError, ValidationError, ValueError, KeyError, TypeError) as error:
        raise InvalidError("the commit does not read", reason=str(error)[:500]) from error


def created_table(document: Mapping[str, Any], location: str, clock: Clock) -> tuple[Attempt, TableSpec]:
    """Return the first metadata file of the table that a creation's body describes, and its shape.

    Field ids are assigned anew, as the API has it. Raises `InvalidError`, `UnsupportedError`.
    """
    properties = {str(key): str(value) for key, value in (document.get("properties") or {}).items()}
    _check_properties(properties)
    _check_version(int(properties.pop(_FORMAT_VERSION, WRITE_VERSION)))
    try:
        schema = Schema.model_validate(document["schema"])
        partitions = PartitionSpec.model_validate(document.get("partition-spec") or {"spec-id": 0, "fields": []})
        order = SortOrder.model_validate(document.get("write-order") or {"order-id": 0, "fields": []})
        metadata = new_table_metadata(schema, partitions, order, location, properties, uuid.UUID(hex=clock.new_id()))
        metadata.spec().check_compatible(metadata.schema())
        metadata.sort_order().check_compatible(metadata.schema())
    except (pydantic.ValidationError, ValidationError, ValueError, KeyError, TypeError) as error:
        raise InvalidError("the table cannot be made this way", reason=str(error)[:500]) from error
    metadata = metadata.model_copy(update={"last_updated_ms": clock.now_ms()})
    return _first(metadata, location, clock)


def staged_table(commit: OutsideCommit, stores: Stores, clock: Clock) -> tuple[Attempt, TableSpec, str]:
    """Return the first metadata file of a table that was staged, its shape, and its location.

    Raises
    ------
    ForbiddenError
        the location may not be reached
    """
    for update in commit.updates:
        if isinstance(update, SetPropertiesUpdate):
            _check_properties(update.updates)
        if isinstance(update, UpgradeFormatVersionUpdate):
            _check_version(update.format_version)
    empty = TableMetadataV1.model_construct(location="", last_column_id=-1, schema=Schema())
    metadata = applied(empty, commit.updates, None, clock.now_ms())
    _check_version(metadata.format_version)
    if not metadata.location:
        raise InvalidError("a staged table needs the location that its staging told; send set-location")
    location = normalize(metadata.location)
    stores.policy.check(location)
    return (*_first(metadata.model_copy(update={"location": location}), location, clock), location)


async def registered_table(stores: Stores, metadata_location: str, clock: Clock) -> tuple[Attempt, TableSpec, str]:
    """Return a next metadata file for a table that lies there already, its shape, and its location.

    Watermarks in it are of another catalog's logs, and are taken out.
    """
    data = await stores.get(metadata_location)
    metadata = await asyncio.to_thread(parse_metadata, data, metadata_location)
    location = normalize(metadata.location)
    stores.policy.check(location)
    foreign = [key for key in metadata.properties if key.startswith(OURS)]
    updates = [RemovePropertiesUpdate(removals=foreign)] if foreign else []
    attempt = follow(metadata, location, clock, updates, {}, metadata_location, None)
    return attempt, spec_of(metadata, clock.new_id()), location


def _first(metadata: TableMetadata, location: str, clock: Clock) -> tuple[Attempt, TableSpec]:
    spec = spec_of(metadata, metadata.table_uuid.hex)
    return follow(metadata, location, clock, [], {}, None, spec), spec


def _check_version(version: int) -> None:
    if version != WRITE_VERSION:
        raise UnsupportedError("only iceberg tables of format version 2 can be written", version=version)


def _check_properties(names: Mapping[str, str] | Sequence[str]) -> None:
    ours = [name for name in names if name.startswith(OURS)]
    if ours:
        raise ForbiddenError("this table property is kept by the catalog; leave it out", property=ours[0])


async def outside_attempt(
    stores: Stores, location: str, clock: Clock, metadata_location: str, commit: OutsideCommit
) -> Attempt:
    """Return the commit upon the metadata file at ``metadata_location``.

    Raises
    ------
    ConflictError
        a requirement does not hold
    InvalidError, UnsupportedError, ForbiddenError
        an update may not be made
    """
    data = await stores.get(metadata_location)
    return await asyncio.to_thread(_attempt, data, location, clock, metadata_location, commit)


def _attempt(data: bytes, location: str, clock: Clock, metadata_location: str, commit: OutsideCommit) -> Attempt:
    metadata = parse_metadata(data, metadata_location)
    if _happened(metadata, commit):
        return follow(metadata, location, clock, [], {}, metadata_location, None)
    for requirement in commit.requirements:
        try:
            requirement.validate(metadata)
        except CommitFailedException as error:
            raise ConflictError("a requirement of the commit does not hold", reason=str(error)) from error
    updates = _checked(metadata, commit.updates)
    if not updates:
        return follow(metadata, location, clock, [], {}, metadata_location, None)
    after = applied(metadata, updates, None, clock.now_ms())
    _check_shape(metadata, after)
    spec, before = spec_of(after, metadata.table_uuid.hex), spec_of(metadata, metadata.table_uuid.hex)
    return follow(metadata, location, clock, updates, {}, metadata_location, None if spec == before else spec)


def _happened(metadata: TableMetadata, commit: OutsideCommit) -> bool:
    added = [update.snapshot.snapshot_id for update in commit.updates if isinstance(update, AddSnapshotUpdate)]
    known = {snapshot.snapshot_id for snapshot in metadata.snapshots}
    return bool(added) and all(number in known for number in added)


def _checked(metadata: TableMetadata, updates: Sequence[Any]) -> list[Any]:
    """Return the updates that change something. Raises for those that may not be made."""
    kept = []
    for update in updates:
        if isinstance(update, SetLocationUpdate):
            if normalize(update.location) != normalize(metadata.location):
                raise UnsupportedError("a table cannot be moved; make another one there", location=update.location)
            continue
        if isinstance(update, UpgradeFormatVersionUpdate):
            _check_version(update.format_version)
        if isinstance(update, SetPropertiesUpdate):
            _check_properties([k for k, v in update.updates.items() if metadata.properties.get(k) != v])
        if isinstance(update, RemovePropertiesUpdate):
            _check_properties(update.removals)
            there = [name for name in update.removals if name in metadata.properties]
            update = RemovePropertiesUpdate(removals=there)
        kept.append(update)
    return kept


def _check_shape(before: TableMetadata, after: TableMetadata) -> None:
    old, new = before.schema(), after.schema()
    if set(old.identifier_field_ids) != set(new.identifier_field_ids):
        raise UnsupportedError(
            "the primary key of a table cannot change: rows in the log have the old one; make another table",
            before=sorted(old.identifier_field_ids), after=sorted(new.identifier_field_ids),
        )  # fmt: skip
    if old.schema_id != new.schema_id:
        # Going back to an older schema brings dropped columns back under their own ids, so any id may come.
        check_evolution(old, new, 0)
