"""Tables of three formats whose files are merged on read, written by hand into a folder."""

import datetime as dt
import decimal
import json
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import orc

from tests.support.delta_build import add, bitmap, column, inline_vector, metadata, protocol, stored_vector, vector_file
from tests.support.iceberg_build import IcebergBuilder, Manifest
from tests.support.iceberg_build import column as iceberg_column

SCHEMA = pa.schema([
    ("k", pa.int64()), ("g", pa.string()), ("x", pa.float64()), ("d", pa.decimal128(10, 2)),
    ("t", pa.timestamp("us", "UTC")), ("n", pa.list_(pa.int32())),
])  # fmt: skip
_DELTA_TYPES: dict[str, Any] = {
    "k": "long", "g": "string", "x": "double", "d": "decimal(10,2)", "t": "timestamp",
    "n": {"type": "array", "elementType": "integer", "containsNull": True},
}  # fmt: skip
_ICEBERG_TYPES: dict[str, Any] = {
    "k": "long", "g": "string", "x": "double", "d": "decimal(10, 2)", "t": "timestamptz",
    "n": {"type": "list", "element-id": 20, "element": "int", "element-required": False},
}  # fmt: skip
_START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
FLOATS = (None, 0.0, -0.0, 1.5, float("nan"), float("inf"), -1e300)


def some_rows(chance: np.random.Generator, n_rows: int) -> pa.Table:
    """Return rows with few values, so that they meet, and meet NULL."""
    columns: dict[str, list[Any]] = {
        "k": [None if each == 9 else int(each) for each in chance.integers(0, 10, n_rows)],
        "g": [None if each == 4 else f"g{each}" for each in chance.integers(0, 5, n_rows)],
        "x": [FLOATS[each] for each in chance.integers(0, len(FLOATS), n_rows)],
        "d": [decimal.Decimal(int(each)) / 4 for each in chance.integers(-400, 400, n_rows)],
        "t": [_START + dt.timedelta(hours=int(each)) for each in chance.integers(0, 50, n_rows)],
        "n": [None if each == 3 else list(range(each)) for each in chance.integers(0, 4, n_rows)],
    }
    return pa.table(columns, schema=SCHEMA)


def write_delta(folder: Path, files: Sequence[tuple[pa.Table, Sequence[int]]], *, partition: str = "") -> str:
    """Write a Delta table of (rows, numbers of deleted rows), and return its location. Deletion vectors lie inline and
    in a file by turns; with ``partition``, each file has that column's value of its first row in the log alone."""
    (folder / "_delta_log").mkdir(parents=True)
    columns = [column(each.name, _DELTA_TYPES[each.name]) for each in SCHEMA]
    actions = [
        protocol(3, 7, ["deletionVectors"]),
        metadata(*columns, partitions=[partition] if partition else []),
    ]
    for number, (rows, deleted) in enumerate(files):
        name, values = f"{number}.parquet", {}
        if partition:
            value = rows.column(partition)[0].as_py() if rows.num_rows else None
            values, rows = {partition: None if value is None else str(value)}, rows.drop_columns([partition])
        pq.write_table(rows, folder / name, row_group_size=40)
        vector = None
        if len(deleted) and number % 2:
            vector = inline_vector(deleted)
        elif len(deleted):
            identity, data = uuid.UUID(int=number + 1), bitmap(deleted)
            file, offsets = vector_file(data)
            (folder / f"deletion_vector_{identity}.bin").write_bytes(file)
            vector = stored_vector(data, offsets[0], len(set(deleted)), identity)
        action = add(name, vector=vector, values=values, stats={"numRecords": rows.num_rows})
        action["add"]["size"] = (folder / name).stat().st_size
        actions.append(action)
    (folder / "_delta_log" / f"{0:020}.json").write_text("\n".join(map(json.dumps, actions)) + "\n")
    return str(folder)


def write_iceberg(
    folder: Path, files: Sequence[tuple[pa.Table, Sequence[int]]], keys: pa.Table | None = None, *, version: int = 2
) -> str:
    """Write an Iceberg table of (rows, numbers of deleted rows), without those whose ``k`` and ``g`` are in ``keys``,
    and return its metadata file. Files are Parquet, Avro and ORC by turns; from version 3 on with deletion vectors."""
    fields = [iceberg_column(number + 1, each.name, _ICEBERG_TYPES[each.name]) for number, each in enumerate(SCHEMA)]
    build = IcebergBuilder(folder, fields, version)
    data, deletes = [], []
    for number, (rows, deleted) in enumerate(files):
        form = ("PARQUET", "PARQUET", "AVRO", "ORC")[number % 4]
        # Lists are left out where their elements would need ids of their own.
        rows = rows.drop_columns(["n"])
        if form == "PARQUET":
            file = build.parquet(f"{number}.parquet", rows, [1, 2, 3, 4, 5])
        else:
            file = replace(build.parquet(f"{number}.x", rows, [1, 2, 3, 4, 5]), format=form)
            path = folder / "data" / f"{number}.x"
            _write(path, rows, form)
            file = replace(file, size=path.stat().st_size)
        data.append(file)
        if len(deleted) and version > 2:
            deletes.append(build.vector(f"v{number}.puffin", file.path, list(deleted)))
        elif len(deleted):
            deletes.append(build.position_deletes(f"p{number}.parquet", [(file.path, each) for each in deleted]))
    if keys is not None:
        deletes.append(build.parquet("e.parquet", keys.select(["k", "g"]), [1, 2], content=2, equality_ids=[1, 2]))
    return build.commit(Manifest(data, sequence=1), Manifest(deletes, content=1, sequence=2), number=2)


def _write(path: Path, rows: pa.Table, form: str) -> None:
    if form == "ORC":
        fields = [each.with_metadata({b"iceberg.id": str(number + 1).encode()})
                  for number, each in enumerate(rows.schema)]  # fmt: skip
        orc.write_table(rows.cast(pa.schema(fields)), path)
        return
    types: dict[str, Any] = {
        "k": "long", "g": "string", "x": "double",
        "d": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2},
        "t": {"type": "long", "logicalType": "timestamp-micros", "adjust-to-utc": True},
    }  # fmt: skip
    fields = [{"name": name, "type": ["null", types[name]], "default": None, "field-id": number + 1}
              for number, name in enumerate(rows.column_names)]  # fmt: skip
    with path.open("wb") as out:
        fastavro.writer(out, {"type": "record", "name": "r", "fields": fields}, rows.to_pylist())


def write_parquet(folder: Path, files: Sequence[tuple[pa.Table, Sequence[int]]]) -> str:
    """Write a folder of Parquet files, every other one with NaN beside one number, and return it."""
    folder.mkdir(parents=True)
    for number, (rows, _deleted) in enumerate(files):
        if number % 2 == 0:
            hiding = pa.array([(0.5, None, float("nan"))[each % 3] for each in range(rows.num_rows)], pa.float64())
            rows = rows.set_column(2, "x", hiding)
        pq.write_table(rows, folder / f"{number}.parquet", row_group_size=40)
    return str(folder)
