"""How rows lie in data files: sorted, split by partition, in files and row groups of the size that reads like.

Files are written before a commit names them, each once and under a name of its own, so a crash leaves nothing but
files that no table knows (`storage.tables.write`, rule 3); an error and a cancellation leave none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from functions.discard import try_discard
from functions.lookup_layout import GROUP_ROWS, block_rows, encoding
from functions.transforms import transform_column
from storage.clock import Clock
from storage.errors import InvalidError
from storage.stores import Stores, join
from storage.tables import known_nan
from storage.tables.snapshot import FIELD_ID, PHYSICAL_NAME
from storage.tables.write import DataFile, PartitionField, TableSpec

__all__ = ["LayoutSettings", "TableFormat", "layout_of", "write_files"]

TableFormat = Literal["delta", "iceberg"]
_PUTS_AT_ONCE = 4
_FOLDER_BYTES_MAX = 200
"""A folder named after a longer value is left out: stores and file systems limit names."""
_LOOKUP_BYTES_MAX = 1 << 20
"""A row group that is read for one row: past this its bytes take longer than the request."""


@dataclass(frozen=True, slots=True)
class LayoutSettings:
    """What data files look like.

    target_file_bytes : a file is closed once it has so many, as stored
    keyed_file_bytes : the same for tables with a primary key, whose files are written anew when a row changes
    row_group_rows : rows of a row group; smaller is better for lookups, larger for scans
    row_group_bytes_max : row groups have fewer rows where they would be longer, as stored; 0 means no limit
    lookup : encoded to be read a few rows at a time (`functions.lookup_layout`)
    compression_level : of zstd
    bloom_columns : names of columns that get Bloom filters
    sort_bytes_max : rows are sorted in runs of so many bytes of Arrow; more rows make more files that overlap
    """

    target_file_bytes: int = 128 << 20
    keyed_file_bytes: int = 32 << 20
    row_group_rows: int = 128 << 10
    row_group_bytes_max: int = 0
    lookup: bool = False
    compression_level: int = 3
    bloom_columns: tuple[str, ...] = ()
    sort_bytes_max: int = 256 << 20


def layout_of(spec: TableSpec, settings: LayoutSettings | None = None) -> LayoutSettings:
    """Return the settings with what the table's own properties say: ``firn.target_file_bytes``, ``firn.lookup``,
    ``firn.row_group_rows``, ``firn.compression_level`` and ``firn.bloom_columns`` (comma-separated).

    Raises `InvalidError` naming a property that is not a whole number above zero.
    """
    base = settings or LayoutSettings()
    if spec.properties.get("firn.lookup", "").lower() == "true":
        own_rows = "firn.row_group_rows" in spec.properties
        longest = 0 if own_rows else _LOOKUP_BYTES_MAX
        base = replace(base, lookup=True, row_group_rows=GROUP_ROWS, row_group_bytes_max=longest)
    names = tuple(name.strip() for name in spec.properties.get("firn.bloom_columns", "").split(",") if name.strip())
    target_bytes = min(base.target_file_bytes, base.keyed_file_bytes) if spec.primary_key else base.target_file_bytes
    return replace(
        base,
        target_file_bytes=_number(spec, "target_file_bytes", target_bytes),
        row_group_rows=_number(spec, "row_group_rows", base.row_group_rows),
        compression_level=_number(spec, "compression_level", base.compression_level),
        bloom_columns=names or base.bloom_columns,
    )


def _number(spec: TableSpec, name: str, default: int) -> int:
    text = spec.properties.get(f"firn.{name}")
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise InvalidError(
            "this table property is a whole number above zero", property=f"firn.{name}", value=repr(text)
        )
    return int(text)


async def write_files(
    stores: Stores,
    clock: Clock,
    location: str,
    schema: pa.Schema,
    spec: TableSpec,
    rows: pa.Table | AsyncIterator[pa.RecordBatch],
    settings: LayoutSettings | None = None,
    *,
    table_format: TableFormat,
    progress: Callable[[int], None] = lambda _n_rows: None,
) -> list[DataFile]:
    """Write the rows below the table's ``location`` and return the files, which are no part of the table yet.

    Parameters
    ----------
    schema : the columns of ``rows``, in order; field metadata says what they are called inside files
    spec : says how to sort (its order, else its primary key) and how to split
    progress : is told how many rows are stored

    Raises
    ------
    InvalidError : a column that is NOT NULL has a null, naming it
    """
    plan = _Plan(location, schema, spec, layout_of(spec, settings), table_format)
    gate = asyncio.Semaphore(_PUTS_AT_ONCE)
    written: list[DataFile] = []
    puts: list[asyncio.Task[DataFile]] = []
    begun: list[str] = []
    n_stored = 0

    async def put(encoded: _Encoded) -> DataFile:
        nonlocal n_stored
        path = join(location, *_folders(plan, encoded.partition), f"part-{clock.new_id()}.parquet")
        blobs, key = stores.resolve(path)
        async with gate:
            begun.append(path)
            meta = await blobs.put(key, encoded.data, if_absent=True)
        n_stored += encoded.metadata.num_rows
        progress(n_stored)
        return DataFile(path, meta.size, encoded.partition, encoded.metadata)

    try:
        async for run in _runs(rows, schema, plan.settings.sort_bytes_max):
            # The files of one run are encoded while those of the run before are stored.
            encoded = await asyncio.to_thread(_encode_run, plan, run)
            written += await asyncio.gather(*puts)
            puts = [asyncio.create_task(put(each)) for each in encoded]
        return written + await asyncio.gather(*puts)
    except (Exception, asyncio.CancelledError):
        for task in puts:
            task.cancel()
        await asyncio.gather(*puts, return_exceptions=True)
        await try_discard(stores, begun)
        raise


@dataclass(frozen=True)
class _Plan:
    location: str
    schema: pa.Schema
    spec: TableSpec
    settings: LayoutSettings
    table_format: TableFormat


@dataclass(frozen=True)
class _Encoded:
    partition: Mapping[str, Any]
    data: bytes
    metadata: pq.FileMetaData


async def _runs(
    rows: pa.Table | AsyncIterator[pa.RecordBatch], schema: pa.Schema, bytes_max: int
) -> AsyncIterator[pa.Table]:
    """Yield tables of at most about ``bytes_max`` bytes and at least one row."""
    if isinstance(rows, pa.Table):
        parts = max(1, -(-rows.nbytes // bytes_max))
        step = max(1, -(-rows.num_rows // parts))
        for start in range(0, rows.num_rows, step):
            yield rows.slice(start, step)
        return
    held: list[pa.RecordBatch] = []
    n_bytes = 0
    async for batch in rows:
        if batch.num_rows:
            held.append(batch)
            n_bytes += batch.nbytes
        if n_bytes >= bytes_max:
            yield pa.Table.from_batches(held, schema)
            held, n_bytes = [], 0
    if held:
        yield pa.Table.from_batches(held, schema)


def _encode_run(plan: _Plan, run: pa.Table) -> list[_Encoded]:
    """Sort one run and encode its files."""
    run = pa.table(run.columns, schema=plan.schema)
    for field, column in zip(run.schema, run.columns, strict=True):
        if not field.nullable and column.null_count:
            raise InvalidError("a column that is NOT NULL has a null", column=field.name, nulls=column.null_count)
    values = [
        (field, transform_column(field.transform, _whole(run.column(_column_of(plan, field)))))
        for field in plan.spec.partition_by
    ]
    run, bounds, firsts = _sorted(plan, run, [value for _field, value in values])
    inside = _file_schema(plan)
    kept = [name for name in plan.schema.names if name not in _left_out(plan)]
    if not kept:
        raise InvalidError("the table has no column beside those that it is partitioned by", table=plan.location)
    files = []
    for start, limit, first in zip(bounds[:-1], bounds[1:], firsts, strict=True):
        partition = {field.name: value[first].as_py() for field, value in values}
        part = _renamed(run.select(kept).slice(start, limit - start), inside)
        files += [_Encoded(partition, data, metadata) for data, metadata in _encode(plan, part)]
    return files


def _renamed(rows: pa.Table, inside: pa.Schema) -> pa.Table:
    """Return the rows under other names, at every level; types are the same but for those."""
    columns = [
        pa.chunked_array([chunk.view(field.type) for chunk in column.chunks], field.type)
        if pa.types.is_nested(field.type)
        else column
        for column, field in zip(rows.columns, inside, strict=True)
    ]
    return pa.table(columns, schema=inside)


def _column_of(plan: _Plan, field: PartitionField) -> str:
    """Return the name of the partition field's column in the plan's schema."""
    wanted = str(field.column_id).encode()
    for column in plan.schema:
        if (column.metadata or {}).get(FIELD_ID) == wanted:
            return str(column.name)
    # Delta without column mapping keeps no ids: the names are those of the spec.
    for column in plan.spec.schema:
        if (column.metadata or {}).get(FIELD_ID) == wanted and column.name in plan.schema.names:
            return str(column.name)
    raise InvalidError("a partition field names a column that the table lacks", partition=field.name)


def _left_out(plan: _Plan) -> set[str]:
    """The columns that are in no file: Delta keeps the values of partition columns in its log alone."""
    if plan.table_format == "iceberg":
        return set()
    return {_column_of(plan, field) for field in plan.spec.partition_by if field.transform == "identity"}


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)


def _sort_keys(plan: _Plan) -> list[tuple[str, str, str]]:
    order = []
    for field in plan.spec.order_by:
        name = _column_of(plan, PartitionField(field.column_id, "identity", "order"))
        order.append((name, "descending", "at_end") if field.descending else (name, "ascending", "at_start"))
    return order or [(name, "ascending", "at_start") for name in plan.spec.primary_key]


def _sorted(plan: _Plan, run: pa.Table, values: list[pa.Array]) -> tuple[pa.Table, list[int], list[int]]:
    """Return the rows by partition and then by the sort order, the bounds of the partitions among them, and for each
    partition a row (of the unsorted ``run``) that is in it."""
    keys = _sort_keys(plan)
    groups = _groups(values, run.num_rows)
    if not keys and not values:
        return run, [0, run.num_rows], [0]
    ordering = pa.table(
        [pa.array(groups), *(run.column(name) for name, _order, _nulls in keys)],
        names=["group", *map(str, range(len(keys)))],
    )
    by = [("group", "ascending", "at_start"), *((str(i), order, nulls) for i, (_n, order, nulls) in enumerate(keys))]
    indices = pc.sort_indices(ordering, sort_keys=by)
    placed = groups[np.asarray(indices)]
    starts = np.flatnonzero(np.concatenate([[True], placed[1:] != placed[:-1]]))
    firsts = np.asarray(indices)[starts].tolist()
    if not np.array_equal(indices, np.arange(run.num_rows)):
        run = run.take(indices)
    return run, [*starts.tolist(), run.num_rows], firsts


def _groups(values: list[pa.Array], n_rows: int) -> np.ndarray:
    """Return int64[n_rows]: equal numbers for rows of equal partition values, nulls equal."""
    groups = np.zeros(n_rows, np.int64)
    for value in values:
        codes = np.asarray(pc.dictionary_encode(value, null_encoding="encode").indices).astype(np.int64)
        groups = np.unique(groups * (codes.max(initial=0) + 1) + codes, return_inverse=True)[1]
    return groups


def _file_schema(plan: _Plan) -> pa.Schema:
    """Return the schema inside files: physical names, field ids, and nothing else in the metadata."""
    left_out = _left_out(plan)
    return pa.schema([_physical(field) for field in plan.schema if field.name not in left_out])


def _physical(field: pa.Field) -> pa.Field:
    tags = field.metadata or {}
    name = tags[PHYSICAL_NAME].decode() if PHYSICAL_NAME in tags else field.name
    kept = {FIELD_ID: tags[FIELD_ID]} if FIELD_ID in tags else None
    return pa.field(name, _physical_type(field.type), field.nullable, kept)


def _physical_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(type_):
        return pa.struct([_physical(type_.field(i)) for i in range(type_.num_fields)])
    if pa.types.is_map(type_):
        return pa.map_(_physical(type_.key_field), _physical(type_.item_field))
    if pa.types.is_list(type_):
        return pa.list_(_physical(type_.value_field))
    return type_


def _encode(plan: _Plan, part: pa.Table) -> list[tuple[bytes, pq.FileMetaData]]:
    """Encode rows as Parquet, a new file whenever one has reached the target size."""
    files = []
    options = _options(plan, part)
    start, step = 0, plan.settings.row_group_rows
    if plan.settings.row_group_bytes_max:
        step = block_rows(part, step, plan.settings.row_group_bytes_max, options)
    while start < part.num_rows:
        first, sink = start, pa.BufferOutputStream()
        with pq.ParquetWriter(sink, part.schema, **options) as writer:
            while start < part.num_rows:
                writer.write_table(part.slice(start, step), row_group_size=step)
                start += step
                if sink.tell() >= plan.settings.target_file_bytes:
                    break
            noted = known_nan.note(part.slice(first, start - first), sink.tell())
            if noted:
                writer.add_key_value_metadata(noted)
        data = sink.getvalue()
        files.append((data.to_pybytes(), pq.read_metadata(pa.BufferReader(data))))
    return files


def _options(plan: _Plan, part: pa.Table) -> dict[str, Any]:
    """Return what `pyarrow.parquet.ParquetWriter` is told beside the schema."""
    physical = {field.name: _physical(field).name for field in plan.schema}
    inside = part.schema
    ndv = {"ndv": plan.settings.row_group_rows}
    blooms = {physical[name]: ndv for name in plan.settings.bloom_columns if physical.get(name) in inside.names}
    return {
        "compression": "zstd",
        "compression_level": plan.settings.compression_level,
        "write_page_index": True,
        "write_page_checksum": True,
        "store_schema": False,
        "bloom_filter_options": blooms or None,
        "sorting_columns": _sorting_columns(plan, inside) or None,
        **(encoding(part) if plan.settings.lookup else {}),
    }


def _sorting_columns(plan: _Plan, inside: pa.Schema) -> list[pq.SortingColumn]:
    """Return the sort order as Parquet has it: by leaf columns, as far as they are in the file."""
    leaves, at = {}, 0
    for field in inside:
        leaves[field.name] = at
        at += _n_leaves(field.type)
    physical = {field.name: _physical(field).name for field in plan.schema}
    columns = []
    for name, order, nulls in _sort_keys(plan):
        if physical[name] not in leaves:
            continue  # a partition column of Delta: constant in the file
        columns.append(pq.SortingColumn(leaves[physical[name]], order == "descending", nulls == "at_start"))
    return columns


def _n_leaves(type_: pa.DataType) -> int:
    if pa.types.is_nested(type_):
        return sum(_n_leaves(type_.field(i).type) for i in range(type_.num_fields))
    return 1


def _folders(plan: _Plan, partition: Mapping[str, Any]) -> list[str]:
    """Return the folders of a partition: ``column=value``, escaped as Hive does. They mean nothing to readers."""
    folders = ["data"] if plan.table_format == "iceberg" else []
    for name, value in partition.items():
        text = "__HIVE_DEFAULT_PARTITION__" if value is None or value in ("", b"") else _text(value)
        folder = f"{quote(name, safe=' ')}={quote(text, safe=' -_,+()@')}"
        if len(folder) <= _FOLDER_BYTES_MAX:
            folders.append(folder)
    return folders


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
