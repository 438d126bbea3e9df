"""Read a resolved Delta snapshot with pyarrow alone, and compare rows as multisets: the oracle of the Delta tests."""

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.blobs.open import S3Options, open_blobs
from storage.clock import SystemClock
from storage.stores import Stores
from storage.tables.delta import load
from storage.tables.project import project_batch
from storage.tables.snapshot import At, Snapshot


def local_stores() -> Stores:
    """Stores that open local folders."""
    clock = SystemClock()
    return Stores(lambda root: open_blobs(root, s3=S3Options(), clock=clock))


async def load_folder(folder: Path, at: At = At(), known: Snapshot | None = None) -> Snapshot:  # noqa: B008
    """Resolve the table in a local folder."""
    return await load(local_stores(), f"file://{folder}", at, known)


async def read_rows(stores: Stores, snapshot: Snapshot, *, only: int | None = None) -> pa.Table:
    """Return the live rows of every file (or of file ``only``), in the logical schema."""
    tables = [snapshot.schema.empty_table()]
    for index, location in enumerate(snapshot.files.paths):
        if only not in (None, index):
            continue
        stored = pq.read_table(io.BytesIO(await stores.get(location)), partitioning=None)
        known_rows = snapshot.files.n_rows[index]
        assert known_rows in (-1, stored.num_rows)
        if deletes := snapshot.files.deletes.get(index):
            keep = np.ones(stored.num_rows, dtype=bool)
            keep[(await deletes.load(stores)).positions] = False
            stored = stored.filter(pa.array(keep))
        constants = {name: values[index] for name, values in snapshot.files.partitions.items()}
        for batch in stored.combine_chunks().to_batches() or []:
            projected = project_batch(batch, snapshot.schema, snapshot.matching, constants)
            tables.append(pa.Table.from_batches([projected]))
    return pa.concat_tables(tables)


def multiset(table: pa.Table) -> Counter[Any]:
    """The rows of a table, columns by name, as a multiset."""
    names = sorted(table.column_names)
    columns = [[_plain(value) for value in table.column(name).to_pylist()] for name in names]
    return Counter(zip(*columns, strict=True) if columns else [() for _ in range(table.num_rows)])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((key, _plain(value[key])) for key in sorted(value))
    if isinstance(value, list):
        return tuple(_plain(one) for one in value)
    if isinstance(value, tuple):
        return tuple(_plain(one) for one in value)
    if isinstance(value, float) and value != value:
        return "NaN"
    return value
