"""Decode checkpoints: Parquet (classic, multi-part, v2 and sidecars) and JSON (v2).

Only what a reader needs is read from the file: tombstones, tags and the typed partition values are left out.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.errors import CorruptError, FirnlineError
from storage.tables.delta.actions import Actions, decode_action, decode_lines
from storage.tables.delta.files import SCHEMA, VECTOR, FileBatch
from storage.tables.delta.paths import file_locations
from storage.tables.delta.stats import FileStats

__all__ = ["decode_checkpoint"]

_ADD_FIELDS = ("path", "partitionValues", "size", "deletionVector", "stats", "stats_parsed")
_VECTOR_FIELDS = {
    "storage": "storageType",
    "path": "pathOrInlineDv",
    "offset": "offset",
    "size": "sizeInBytes",
    "cardinality": "cardinality",
}
_SMALL_ACTIONS = ("protocol", "metaData", "txn", "domainMetadata", "sidecar")


def decode_checkpoint(table: str, location: str, data: bytes) -> tuple[Actions, list[FileBatch]]:
    """Decode one file of a checkpoint. Raises `CorruptError` naming the file.

    The actions hold everything but files, except for a JSON checkpoint, whose files are among its actions.
    """
    if location.endswith(".json"):
        return decode_lines(table, location, data), []
    try:
        columns = _read(data)
        return _small_actions(table, columns), _batches(table, columns)
    except FirnlineError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise CorruptError(
            "a delta checkpoint does not decode", file=location, cause=f"{type(error).__name__}: {error}"[:200]
        ) from None


def _read(data: bytes) -> pa.Table:
    file = pq.ParquetFile(pa.BufferReader(data))
    schema = file.schema_arrow
    wanted = [name for name in _SMALL_ACTIONS if name in schema.names]
    if "add" in schema.names:
        present = {field.name for field in schema.field("add").type}
        wanted += [f"add.{name}" for name in _ADD_FIELDS if name in present]
    return file.read(columns=wanted, use_threads=False)


def _small_actions(table: str, columns: pa.Table) -> Actions:
    actions = Actions()
    for kind in _SMALL_ACTIONS:
        if kind in columns.column_names:
            for row in columns.column(kind).drop_null().to_pylist():
                decode_action(table, {kind: row}, actions)
    return actions


def _batches(table: str, columns: pa.Table) -> list[FileBatch]:
    if "add" not in columns.column_names:
        return []
    adds = [chunk.filter(chunk.is_valid()) for chunk in columns.column("add").chunks]
    return [_batch(table, chunk) for chunk in adds if len(chunk)]


def _batch(table: str, adds: pa.StructArray) -> FileBatch:
    paths, sizes = _field(adds, "path", pa.string()), _field(adds, "size", pa.int64())
    if paths is None or sizes is None or paths.null_count or sizes.null_count:
        raise ValueError("an add action lacks its path or size")
    values = _field(adds, "partitionValues", SCHEMA.field("partition_values").type)
    if values is None:
        values = pa.nulls(len(adds), SCHEMA.field("partition_values").type)
    located = file_locations(table, paths)
    plain = pc.equal(located, pc.binary_join_element_wise(pa.scalar(table.rstrip("/")), paths, "/"))
    stored = pc.if_else(plain, pa.scalar(None, pa.string()), paths)
    batch = pa.RecordBatch.from_arrays([located, sizes, values, _vectors(adds), stored], schema=SCHEMA)
    stats = FileStats(_field(adds, "stats", pa.string()), _field(adds, "stats_parsed"), len(adds))
    return FileBatch(batch, stats)


def _field(structs: pa.StructArray, name: str, kind: pa.DataType | None = None) -> Any:
    if structs.type.get_field_index(name) < 0:
        return None
    values = structs.field(name)
    return values if kind is None or values.type == kind else values.cast(kind)


def _vectors(adds: pa.StructArray) -> pa.StructArray:
    stored = _field(adds, "deletionVector")
    if stored is None:
        return pa.nulls(len(adds), VECTOR)
    children = []
    for name, stored_name in _VECTOR_FIELDS.items():
        kind = VECTOR.field(name).type
        if stored.type.get_field_index(stored_name) < 0:
            children.append(pa.nulls(len(adds), kind))
        else:
            children.append(pc.struct_field(stored, [stored_name]).cast(kind))
    absent = children[0].is_null()
    incomplete = pc.or_(children[3].is_null(), pc.or_(children[4].is_null(), children[1].is_null()))
    if pc.any(pc.and_(pc.invert(absent), incomplete)).as_py():
        raise ValueError("a deletion vector lacks its path, size or cardinality")
    return pa.StructArray.from_arrays(children, fields=list(VECTOR), mask=absent)
