"""The slower, always correct reader: one data file at a time, deletes applied, columns projected in Arrow.

It serves the files that a native scan cannot: those with deletion vectors, positional or equality deletes, those in
ORC or Avro, and those whose nested columns were renamed, reordered or widened. Memory is bounded by one batch of the
file and the file's own delete information.

Sources: Delta protocol, "Deletion Vectors"; Iceberg spec, "Scan Planning" and "Delete Formats".
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.errors import CorruptError, UnsupportedError
from storage.stores import Stores
from storage.tables.project import (
    constants_of,
    has_field_ids,
    project_batch,
    source_of,
    with_mapped_ids,
    without_views,
)
from storage.tables.snapshot import EqualityDelete, LoadedDeletes, Snapshot

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["BlobFile", "Fetch", "blocking_fetch", "equals_any", "live_rows", "read_rows", "with_ids"]

Fetch = Callable[[str, int, int], bytes]
"""(location, start, limit) → bytes; blocks the calling thread."""
BATCH_ROWS = 32_768


def blocking_fetch(stores: Stores) -> Fetch:
    """Return a fetch for threads that run while the event loop, whose thread calls this, does."""
    loop = asyncio.get_running_loop()

    def fetch(location: str, start: int, limit: int) -> bytes:
        return asyncio.run_coroutine_threadsafe(stores.get_range(location, start, limit), loop).result()

    return fetch


class BlobFile(io.RawIOBase):
    """A location as a seekable file: each read is one ranged get."""

    def __init__(self, fetch: Fetch, location: str, size: int) -> None:
        super().__init__()
        self._fetch, self._location, self._size, self._position = fetch, location, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        limit = self._size if size < 0 else min(self._size, self._position + size)
        if limit <= self._position:
            return b""
        data = self._fetch(self._location, self._position, limit)
        self._position += len(data)
        return data

    def readall(self) -> bytes:
        return self.read()


def read_rows(
    fetch: Fetch, snapshot: Snapshot, index: int, schema: pa.Schema, deletes: LoadedDeletes | None,
    part: tuple[int, int] | None = None,
) -> Iterator[pa.RecordBatch]:  # fmt: skip
    """Yield the live rows of file ``index`` in ``schema``, a selection of the snapshot's columns.

    Parameters
    ----------
    part : [start, limit) of the file's bytes: only rows of row groups that begin there, so that parts which cover the
        file have each row once. What is not in Parquet belongs to the part that has the first byte. None: all rows

    Raises
    ------
    CorruptError
        the file cannot be decoded, naming it
    UnsupportedError
        the file's format is not read, naming it
    """
    location = snapshot.files.paths[index]
    constants = constants_of(snapshot, index)
    try:
        for first_row, stored in _stored_batches(fetch, snapshot, index, schema, deletes, part):
            batch = with_ids(stored, snapshot)
            keep = live_rows(batch, first_row, deletes, constants)
            if keep is not None:
                batch = batch.filter(pa.array(keep))
            if batch.num_rows:
                yield _projected(batch, schema, snapshot, constants)
    except (pa.ArrowException, OSError) as error:
        raise CorruptError("a data file cannot be read", file=location, reason=str(error)) from error


def _projected(
    batch: pa.RecordBatch, schema: pa.Schema, snapshot: Snapshot, constants: Mapping[str, pa.Scalar]
) -> pa.RecordBatch:
    if len(schema) == 0:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * batch.num_rows, pa.struct([])))
    return project_batch(batch, schema, snapshot.matching, constants)


def _stored_batches(
    fetch: Fetch, snapshot: Snapshot, index: int, schema: pa.Schema, deletes: LoadedDeletes | None,
    part: tuple[int, int] | None,
) -> Iterator[tuple[int, pa.RecordBatch]]:  # fmt: skip
    """Yield batches as they are stored, each with the number of its first row in the file."""
    location, size = snapshot.files.paths[index], int(snapshot.files.sizes[index])
    file = BlobFile(fetch, location, size)
    match snapshot.files.formats.get(index, "parquet"):
        case "parquet":
            parquet = pq.ParquetFile(pa.PythonFile(file), pre_buffer=True, coerce_int96_timestamp_unit="us")
            stored = with_ids(parquet.schema_arrow.empty_table(), snapshot).schema
            columns = _needed(stored, schema, snapshot, deletes)
            for first_row, groups in _runs(parquet.metadata, part, size):
                n_rows = sum(parquet.metadata.row_group(group).num_rows for group in groups)
                if columns:
                    yield from _numbered(first_row, _all_rows(parquet, columns, groups, n_rows, location))
                else:
                    yield from _numbered(first_row, _rows_without_columns(n_rows))
        case _ if part is not None and part[0] > 0:
            return
        case "orc":
            yield from _numbered(0, _orc_batches(file))
        case "avro":
            yield from _numbered(0, _avro_batches(file, location))
        case other:
            raise UnsupportedError("data files of this format are not read", format=other, file=location)


def _runs(metadata: pq.FileMetaData, part: tuple[int, int] | None, size: int) -> Iterator[tuple[int, list[int]]]:
    """Yield row groups of a part that follow one another, with the number of their first row."""
    first_row, run_row = 0, 0
    run: list[int] = []
    for group in range(metadata.num_row_groups):
        about = metadata.row_group(group)
        if part is None or part[0] <= _begin(about, size) < part[1]:
            run_row = run_row if run else first_row
            run.append(group)
        elif run:
            yield run_row, run
            run = []
        first_row += about.num_rows
    if run:
        yield run_row, run


def _begin(group: pq.RowGroupMetaData, size: int) -> int:
    """Return where a row group begins, by its first column; always within the file, so that some part has it."""
    if not group.num_columns:
        return 0
    column = group.column(0)
    first = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
    return max(0, min(int(first or 0), size - 1))


def _numbered(first_row: int, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
    for batch in batches:
        yield first_row, batch
        first_row += batch.num_rows


def _all_rows(
    parquet: pq.ParquetFile, columns: list[str], groups: list[int], n_expected: int, location: str
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of row groups. Raises `CorruptError` at the end if they are not as many as the footer says:
    pyarrow drops rows without a word, such as lists whose first page is empty.
    """
    n_rows = 0
    for batch in parquet.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns):
        n_rows += batch.num_rows
        plain = without_views(batch.schema)
        yield batch if plain is batch.schema else batch.cast(plain)
    if n_rows != n_expected:
        raise CorruptError(
            "a data file gives another number of rows than its footer says",
            file=location, rows=n_rows, footer_rows=n_expected,
        )  # fmt: skip


def _rows_without_columns(n_rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, n_rows, BATCH_ROWS):
        count = min(BATCH_ROWS, n_rows - start)
        yield pa.RecordBatch.from_arrays([pa.nulls(count)], names=["\x00rows"])


def _needed(stored: pa.Schema, schema: pa.Schema, snapshot: Snapshot, deletes: LoadedDeletes | None) -> list[str]:
    """Return the stored top-level columns that the projection and the equality deletes need."""
    candidates = list(stored)
    constant = snapshot.files.partitions if snapshot.matching != "field_id" else {}
    wanted = [field for field in schema if field.name not in constant]
    for delete in deletes.equality if deletes else ():
        wanted.extend(delete.schema)
    found = [source_of(field, candidates, snapshot.matching) for field in wanted]
    names = {field.name for field in found if field is not None}
    return [name for name in stored.names if name in names]


def with_ids(data: pa.RecordBatch | pa.Table, snapshot: Snapshot) -> pa.RecordBatch | pa.Table:
    """Give the columns of a file without field ids those of the table's name mapping."""
    if snapshot.name_mapping is None or snapshot.matching != "field_id" or has_field_ids(data.schema):
        return data
    return data.cast(with_mapped_ids(data.schema, snapshot.name_mapping))


def _orc_batches(file: BlobFile) -> Iterator[pa.RecordBatch]:
    from pyarrow import orc

    reader = orc.ORCFile(pa.PythonFile(file))
    for stripe in range(reader.nstripes):
        batch = reader.read_stripe(stripe)
        yield pa.RecordBatch.from_arrays(batch.columns, schema=pa.schema(list(map(_orc_field, batch.schema))))


def _orc_field(field: pa.Field) -> pa.Field:
    """Iceberg keeps field ids in ORC type attributes (Iceberg spec, Appendix A, "ORC")."""
    metadata = {key: value for key, value in (field.metadata or {}).items() if key != b"iceberg.id"}
    number = (field.metadata or {}).get(b"iceberg.id") or (field.metadata or {}).get(b"ORC:iceberg.id")
    if number is not None:
        metadata[b"PARQUET:field_id"] = number
    type_ = field.type
    if pa.types.is_struct(type_):
        type_ = pa.struct([_orc_field(child) for child in type_.fields])
    elif pa.types.is_map(type_):
        type_ = pa.map_(_orc_field(type_.key_field), _orc_field(type_.item_field))
    elif pa.types.is_list(type_):
        type_ = pa.list_(_orc_field(type_.value_field))
    return pa.field(field.name, type_, field.nullable, metadata or None)


def _avro_batches(file: BlobFile, location: str) -> Iterator[pa.RecordBatch]:
    from storage.tables.avro import read_batches

    yield from read_batches(io.BufferedReader(file), location, BATCH_ROWS)


def live_rows(
    batch: pa.RecordBatch, first_row: int, deletes: LoadedDeletes | None, constants: Mapping[str, pa.Scalar]
) -> np.ndarray | None:
    """Return bool[rows] of the rows to keep, or None to keep all."""
    if deletes is None:
        return None
    keep = np.ones(batch.num_rows, dtype=bool)
    start, limit = np.searchsorted(deletes.positions, [first_row, first_row + batch.num_rows])
    keep[np.asarray(deletes.positions[start:limit] - first_row, dtype=np.int64)] = False
    for delete in deletes.equality:
        keep &= ~equals_any(project_batch(batch, delete.schema, "field_id", constants), delete)
    return None if keep.all() else keep


def equals_any(rows: pa.RecordBatch, delete: EqualityDelete) -> np.ndarray:
    """Return bool[rows]: the row equals some key of the delete in every one of its columns, nulls equal.

    Each column turns into the position of its value among the keys' values; positions of several columns are combined
    into one number and made dense again, so that they never overflow.
    """
    row_codes = np.zeros(rows.num_rows, dtype=np.int64)
    key_codes = np.zeros(delete.keys.num_rows, dtype=np.int64)
    for position, field in enumerate(delete.schema):
        keys = delete.keys.column(position).cast(field.type).combine_chunks()
        values = pc.unique(keys)
        row_codes = row_codes * (len(values) + 1) + _codes(rows.column(position), values)
        key_codes = key_codes * (len(values) + 1) + _codes(keys, values)
        codes = np.unique(np.concatenate([key_codes, row_codes]), return_inverse=True)[1]
        key_codes, row_codes = codes[: len(key_codes)], codes[len(key_codes) :]
    return np.isin(row_codes, key_codes)


def _codes(array: pa.Array, values: pa.Array) -> np.ndarray:
    """Return each element's position among ``values`` (nulls match nulls), len(values) where it is not there."""
    return np.asarray(pc.fill_null(pc.index_in(array, value_set=values), len(values)).cast(pa.int64()))
