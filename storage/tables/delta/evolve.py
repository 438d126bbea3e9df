"""The protocol and metadata of a new table, and what an ALTER makes of them.

Columns are followed by their field ids. Adding a column changes metadata alone. Renaming and dropping one needs names
that outlive it: a table that has data files is then upgraded to column mapping by ``name``, where a column's physical
name is the one that it has in the files so far. A type changes only in a commit that removes every file. See
``docs/design/008-delta-writer.md``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import ConflictError, InvalidError, UnsupportedError
from storage.tables.delta.actions import Metadata, Protocol
from storage.tables.delta.protocol import mapping_mode
from storage.tables.delta.replay import TableState
from storage.tables.delta.schema import read_schema
from storage.tables.delta.writable import features_of
from storage.tables.delta.write_properties import OWN_PREFIX, check_properties, columns_by_id, own_properties
from storage.tables.delta.write_schema import (
    MAPPED_ID,
    MAPPED_NAME,
    OWN_ID,
    field_id,
    fields_json,
    type_json,
    uses_bare_time,
)
from storage.tables.write import TableSpec

__all__ = ["evolve", "identity_partitions", "new_table"]

_NESTED_IDS = "delta.columnMapping.nested.ids"
_MODE, _MAX_ID = "delta.columnMapping.mode", "delta.columnMapping.maxColumnId"
_KEPT_FOREVER = ("delta.",)
Retype = Literal["now", "later", "never"]


def identity_partitions(spec: TableSpec) -> dict[str, str]:
    """Partition field name → name of its column, of the partitions that Delta has itself."""
    columns = columns_by_id(spec.schema)
    return {part.name: columns[part.column_id].name for part in spec.partition_by if part.transform == "identity"}


def new_table(spec: TableSpec, now_ms: int) -> tuple[Protocol, Metadata]:
    """Return what the first commit says of the table. Raises `InvalidError`, `UnsupportedError` naming the column."""
    check_properties(spec.properties)
    own = own_properties(spec)
    _check_has_data(spec)
    columns = {field.name: field for field in spec.schema}
    for name in identity_partitions(spec).values():
        _check_partition(columns[name])
    mapped = spec.properties.get(_MODE, "none").lower() == "name"
    fields = _Fields(mapped, was_mapped=False, is_empty=True)
    configuration = {**spec.properties, **own}
    if mapped:
        configuration[_MAX_ID] = str(spec.last_column_id)
    protocol = _with_features(
        Protocol(1, 2),
        {
            "columnMapping": mapped,
            "timestampNtz": uses_bare_time(spec.schema),
            "inCommitTimestamp": spec.properties.get("delta.enableInCommitTimestamps", "").lower() == "true",
        },
    )
    metadata = Metadata(
        str(uuid.UUID(spec.table_id)),
        _document(fields.of([], spec.schema, "")),
        tuple(identity_partitions(spec).values()),
        configuration,
        created_ms=now_ms,
    )
    return protocol, metadata


def evolve(
    table: str, state: TableState, spec: TableSpec, removed: Collection[str] = (), *, was_empty: bool = False
) -> tuple[Protocol, Metadata]:
    """Return protocol and metadata of ``state`` with the schema and properties of ``spec``.

    Parameters
    ----------
    removed : locations of files that the same commit removes
    was_empty : the change was computed from a table without data files

    Raises
    ------
    InvalidError : a change that the table's rows do not allow
    UnsupportedError : a new type of a column that has data, and files that stay as they are
    ConflictError : a new type of a column while another writer added files; begin anew with those too
    """
    old, mode = state.metadata, mapping_mode(table, state.protocol, state.metadata)
    changed = {name: value for name, value in spec.properties.items() if old.configuration.get(name) != value}
    check_properties({**changed, **{name: "" for name in spec.properties if name.startswith(OWN_PREFIX)}})
    if "delta.enableInCommitTimestamps" in changed:
        raise UnsupportedError(
            "in-commit timestamps of a delta table can only be chosen when it is made",
            table=table,
            property="delta.enableInCommitTimestamps",
        )
    asked = changed.get(_MODE, mode).lower()
    if mode != "none" and asked not in ("none", mode):
        raise UnsupportedError("the column mapping of a delta table cannot be changed", table=table, mode=mode)
    old_fields = json.loads(old.schema_json)["fields"]
    is_empty = not any(len(batch) for batch in state.batches)
    mapped = mode != "none" or asked == "name" or (not is_empty and _loses_names(old_fields, spec.schema, False))
    retype = _retype(state, removed, was_empty)
    fields = _Fields(mapped, mode != "none", is_empty, spec.table_id[:8], retype)
    made = fields.of(old_fields, spec.schema, "")
    configuration = _configuration(old.configuration, spec)
    _check_has_data(spec)
    if mapped:
        known = int(old.configuration.get(_MAX_ID, 0))
        configuration[_MODE] = mode if mode != "none" else "name"
        configuration[_MAX_ID] = str(max(known, spec.last_column_id, *_ids(made), 0))
    features = {"columnMapping": mapped, "timestampNtz": uses_bare_time(spec.schema)}
    metadata = replace(
        old,
        schema_json=_document(made),
        partition_columns=_partitions(old.partition_columns, old_fields, spec, mode != "none"),
        configuration=configuration,
    )
    return _with_features(state.protocol, features), metadata


def _retype(state: TableState, removed: Collection[str], was_empty: bool) -> Retype:
    gone = pa.array(sorted(removed), pa.string())
    stay = any(
        not pc.all(pc.is_in(batch.columns.column("location"), value_set=gone)).as_py() for batch in state.batches
    )
    if not stay:
        return "now"
    return "later" if removed or was_empty else "never"


def _document(fields: Sequence[Any]) -> str:
    return json.dumps({"type": "struct", "fields": list(fields)}, ensure_ascii=False, separators=(",", ":"))


def _configuration(old: Mapping[str, str], spec: TableSpec) -> dict[str, str]:
    """A property of ``delta.`` that the spec does not name may be another writer's: it stays."""
    kept = {name: value for name, value in old.items() if name.startswith(_KEPT_FOREVER)}
    return {**kept, **spec.properties, **own_properties(spec)}


def _check_has_data(spec: TableSpec) -> None:
    """Partition columns are in no file: a row of nothing else would be lost, since a file of no columns has no rows."""
    if len(set(identity_partitions(spec).values())) == len(spec.schema):
        raise InvalidError(
            "a delta table needs a column that it is not partitioned by",
            partition_by=", ".join(identity_partitions(spec).values()),
        )


def _check_partition(field: pa.Field) -> None:
    if pa.types.is_nested(field.type) or pa.types.is_binary(field.type):
        raise UnsupportedError(
            "a delta table cannot be partitioned by a column of this type", column=field.name, type=str(field.type)
        )


def _partitions(names: Sequence[str], old_fields: Sequence[Any], spec: TableSpec, mapped: bool) -> tuple[str, ...]:
    olds = {field["name"]: field for field in old_fields}
    found = []
    for name in names:
        new = next((field for field in spec.schema if _match([olds[name]], field, mapped) is not None), None)
        if new is None:
            raise InvalidError("a column that the table is partitioned by cannot be dropped", column=name)
        found.append(new.name)
    return tuple(found)


def _with_features(protocol: Protocol, wanted: Mapping[str, bool]) -> Protocol:
    """Return the least protocol above ``protocol`` that has the wanted features."""
    missing = {name for name, is_wanted in wanted.items() if is_wanted} - features_of(protocol)
    if missing == {"columnMapping"} and protocol.min_writer_version < 5 and protocol.min_reader_version <= 2:
        return Protocol(2, 5)
    if not missing:
        return protocol
    writer = features_of(protocol) | missing
    readers = {"columnMapping", "timestampNtz"} & writer
    if protocol.min_reader_version < 3 and not readers:
        return Protocol(protocol.min_reader_version, 7, None, writer)
    return Protocol(3, 7, (protocol.reader_features or frozenset()) | readers, writer)


def _ids(fields: Sequence[Any]) -> list[int]:
    return [int(field["metadata"][MAPPED_ID]) for field in fields if MAPPED_ID in field["metadata"]]


def _match(olds: Sequence[Any], field: pa.Field, mapped: bool) -> Any:
    """The old field that ``field`` is: of its id, or of its name where the old one has no id."""
    key, number = MAPPED_ID if mapped else OWN_ID, field_id(field)
    for old in olds:
        # As text: delta-rs makes strings of the numbers when it writes a schema anew.
        if number is not None and str((old.get("metadata") or {}).get(key)) == str(number):
            return old
    return next((old for old in olds if old["name"] == field.name and key not in (old.get("metadata") or {})), None)


def _loses_names(olds: Sequence[Any], fields: Any, mapped: bool) -> bool:
    """Whether a name in the files so far would no longer be, or be another column's."""
    kept = [(old, field) for field in fields if (old := _match(olds, field, mapped)) is not None]
    if len(kept) < len(olds) or any(old["name"] != field.name for old, field in kept):
        return True
    return any(_loses_names_within(old["type"], field.type, mapped) for old, field in kept)


def _loses_names_within(old: Any, kind: pa.DataType, mapped: bool) -> bool:
    if not isinstance(old, dict):
        return False
    if old.get("type") == "struct" and pa.types.is_struct(kind):
        return _loses_names(old["fields"], list(kind), mapped)
    if old.get("type") == "array" and pa.types.is_list(kind):
        return _loses_names_within(old["elementType"], kind.value_type, mapped)
    if old.get("type") == "map" and pa.types.is_map(kind):
        return _loses_names_within(old["keyType"], kind.key_type, mapped) or _loses_names_within(
            old["valueType"], kind.item_type, mapped
        )
    return False


@dataclass(frozen=True, slots=True)
class _Fields:
    """Makes the fields of the new schema out of the old ones. ``is_empty``: the table has no data files."""

    mapped: bool
    was_mapped: bool
    is_empty: bool
    suffix: str = ""
    """Of new physical names, so that no column of a user has it."""
    retype: Retype = "now"
    """When types may change: with this commit, once it removes the files that came meanwhile too, or never."""

    def of(self, olds: Sequence[Any], fields: Any, path: str) -> list[Any]:
        self._check_followed(olds, fields, path)
        return fields_json(fields, path, lambda field: self._field(_match(olds, field, self.was_mapped), field, path))

    def _check_followed(self, olds: Sequence[Any], fields: Any, path: str) -> None:
        """Refuse to guess: a column without id that is gone while another came may have been renamed."""
        matched = [_match(olds, field, self.was_mapped) for field in fields]
        key = MAPPED_ID if self.was_mapped else OWN_ID
        lost = [
            old for old in olds if not any(old is one for one in matched) and key not in (old.get("metadata") or {})
        ]
        if lost and None in matched and not self.is_empty:
            raise UnsupportedError(
                "a column that another writer added cannot be told from a new one; rename it with that writer",
                column=path + lost[0]["name"],
            )

    def _field(self, old: Any, field: pa.Field, path: str) -> Any:
        where = path + field.name
        if old is None and not field.nullable and not self.is_empty:
            raise InvalidError("a column that is NOT NULL cannot come into a table that has rows", column=where)
        number, tags = field_id(field), dict((old or {}).get("metadata") or {})
        if number is not None and not self.mapped:
            tags[OWN_ID] = number
        elif self.mapped and MAPPED_NAME not in tags:
            tags.pop(OWN_ID, None)
            if number is None:
                raise InvalidError("a column of a table with column mapping needs a field id", column=where)
            # A new column must not find values of a dropped one in old files: its physical name has never been.
            fresh = field.name if self.is_empty and not self.was_mapped else f"col-{number}-{self.suffix}"
            tags |= {MAPPED_ID: number, MAPPED_NAME: fresh if old is None else old["name"]}
        if self.mapped and (ids := dict(_nested_ids(tags[MAPPED_NAME], field.type))):
            tags[_NESTED_IDS] = ids
        kind = self._type(None if old is None else old["type"], field.type, where)
        # Another writer may have let nulls in: then the column stays so, whatever the catalog remembers.
        loosened = old is not None and not self.is_empty and bool(old.get("nullable", True))
        return {"name": field.name, "type": kind, "nullable": field.nullable or loosened, "metadata": tags}

    def _type(self, old: Any, kind: pa.DataType, path: str) -> Any:
        shape = old.get("type") if isinstance(old, dict) else None
        if pa.types.is_struct(kind) and (shape == "struct" or old is None):
            return {"type": "struct", "fields": self.of(old["fields"] if old else [], list(kind), f"{path}.")}
        if pa.types.is_list(kind) and (shape == "array" or old is None):
            element = self._type(old and old["elementType"], kind.value_type, f"{path}.element")
            return {"type": "array", "elementType": element, "containsNull": kind.value_field.nullable}
        if pa.types.is_map(kind) and (shape == "map" or old is None):
            return {
                "type": "map",
                "keyType": self._type(old and old["keyType"], kind.key_type, f"{path}.key"),
                "valueType": self._type(old and old["valueType"], kind.item_type, f"{path}.value"),
                "valueContainsNull": kind.item_field.nullable,
            }
        if old is None:
            return type_json(kind, path)
        return self._unchanged(old, kind, path)

    def _unchanged(self, old: Any, kind: pa.DataType, path: str) -> Any:
        single = json.dumps({"fields": [{"name": path, "type": old}]})
        if read_schema("", single, "none").field(0).type == kind:
            return old
        if self.retype == "now":
            return self._type(None, kind, path)
        if self.retype == "later":
            raise ConflictError(
                "files came in while the others were written anew in a column's new type; begin anew with these too",
                column=path,
                type=str(kind),
            )
        raise UnsupportedError(
            "the type of a column can only change in a commit that removes all data files of a delta table",
            column=path,
            type=str(kind),
        )


def _nested_ids(path: str, kind: pa.DataType) -> list[tuple[str, int]]:
    """Ids of the children of lists and maps, up to the next struct, by their paths from the physical name."""
    children: list[tuple[str, pa.Field]] = []
    if pa.types.is_list(kind):
        children = [("element", kind.value_field)]
    elif pa.types.is_map(kind):
        children = [("key", kind.key_field), ("value", kind.item_field)]
    found = []
    for name, child in children:
        if (number := field_id(child)) is not None:
            found.append((f"{path}.{name}", number))
        found += _nested_ids(f"{path}.{name}", child.type)
    return found
