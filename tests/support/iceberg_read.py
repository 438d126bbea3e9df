"""Read a resolved Iceberg snapshot with pyarrow alone: the oracle of the Iceberg tests."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import orc

from storage.blobs.local import LocalBlobs
from storage.clock import SystemClock
from storage.stores import Stores
from storage.tables.avro import read_batches
from storage.tables.project import has_field_ids, project_batch, source_of, with_mapped_ids
from storage.tables.snapshot import EqualityDelete, Snapshot


def local_stores(root: str = "/") -> Stores:
    """Stores whose every authority is the folder ``root``."""
    return Stores(lambda _authority: LocalBlobs(root, SystemClock()))


async def read_table(stores: Stores, snapshot: Snapshot) -> pa.Table:
    """Return the live rows of every file, in the logical schema."""
    tables = [snapshot.schema.empty_table()]
    for index, location in enumerate(snapshot.files.paths):
        first_row = 0
        deletes = snapshot.files.deletes.get(index)
        loaded = await deletes.load(stores) if deletes else None
        constants = {name: values[index] for name, values in snapshot.files.partitions.items()}
        for stored in _batches(await stores.get(location), snapshot.files.formats.get(index, "parquet"), location):
            batch = _identified(stored, snapshot)
            for name, (values, known) in snapshot.files.absent.items():
                if known[index] and source_of(snapshot.schema.field(name), list(batch.schema), "field_id") is None:
                    constants[name] = values[index]
            keep = np.ones(batch.num_rows, bool)
            if loaded is not None:
                rows = loaded.positions - first_row
                keep[rows[(rows >= 0) & (rows < batch.num_rows)]] = False
                for delete in loaded.equality:
                    keep &= ~_equal(batch, delete)
            first_row += batch.num_rows
            kept = batch.filter(pa.array(keep))
            tables.append(pa.Table.from_batches([project_batch(kept, snapshot.schema, "field_id", constants)]))
        assert snapshot.files.n_rows[index] == first_row
    return pa.concat_tables(tables)


def _batches(data: bytes, file_format: str, location: str) -> Iterator[pa.RecordBatch]:
    if file_format == "avro":
        yield from read_batches(io.BytesIO(data), location, 1000)
    elif file_format == "orc":
        table = orc.ORCFile(io.BytesIO(data)).read()
        yield from table.cast(pa.schema([_orc_field(f) for f in table.schema])).to_batches()
    else:
        table = pq.read_table(io.BytesIO(data), partitioning=None, coerce_int96_timestamp_unit="us")
        yield from table.to_batches()


def _orc_field(field: pa.Field) -> pa.Field:
    number = (field.metadata or {}).get(b"iceberg.id")
    return field.with_metadata({b"PARQUET:field_id": number} if number else None)


def _identified(batch: pa.RecordBatch, snapshot: Snapshot) -> pa.RecordBatch:
    if snapshot.name_mapping is None or has_field_ids(batch.schema):
        return batch
    return batch.cast(with_mapped_ids(batch.schema, snapshot.name_mapping))


def _equal(batch: pa.RecordBatch, delete: EqualityDelete) -> np.ndarray:
    columns: list[list[Any]] = []
    for field in delete.schema:
        projected = project_batch(batch, pa.schema([field.with_nullable(True)]), "field_id", {})
        columns.append(projected.column(0).to_pylist())
    keys = set(zip(*(column.to_pylist() for column in delete.keys.columns), strict=True))
    return np.array([row in keys for row in zip(*columns, strict=True)], bool)
