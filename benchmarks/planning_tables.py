"""A Delta and two Iceberg tables over the same many small Parquet files, made once and kept between runs.

The bucket ``lake`` is a folder; ``delta`` holds the data files and a log of `COMMITS` commits with a checkpoint behind
nine tenths of them; ``iceberg_local`` and ``iceberg_s3`` name the same files by path and by ``s3://lake/…``, in as many
snapshots of one manifest each. File ``i`` holds the ids ``[i·ROWS, (i+1)·ROWS)``, which its statistics say.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.serving import start_announced

__all__ = ["BUCKET", "ROWS", "ManyFiles", "facade", "many_files"]

BUCKET = "lake"
ROWS = 100
COMMITS = 20
TYPES = {"id": "long", "name": "string", "value": "double"}
ARROW = {"long": pa.int64(), "string": pa.string(), "double": pa.float64()}
MADE = "made.json"


@dataclass(frozen=True, slots=True)
class ManyFiles:
    """The made tables: ``root`` is the folder of the bucket."""

    root: Path
    n_files: int

    def table(self, format_: str, *, s3: bool) -> str:
        """Return the location of the table of a format, in the folder or in the bucket."""
        folder = "delta" if format_ == "delta" else "iceberg_s3" if s3 else "iceberg_local"
        return f"s3://{BUCKET}/{folder}" if s3 else str(self.root / BUCKET / folder)


def many_files(root: Path, n_files: int) -> ManyFiles:
    """Return the tables of ``n_files`` data files under ``root``, made when they are not there yet."""
    made = ManyFiles(root, n_files)
    if not (root / MADE).is_file():
        shutil.rmtree(root, ignore_errors=True)
        folder = root / BUCKET / "delta"
        (folder / "_delta_log").mkdir(parents=True)
        for index in range(n_files):
            _write_data(folder, index)
        _write_delta(folder, n_files)
        _write_iceberg(made, s3=False)
        _write_iceberg(made, s3=True)
        (root / MADE).write_text(json.dumps({"files": n_files}))
    return made


@contextmanager
def facade(root: Path, *, delay_ms: float = 0, log: Path | None = None) -> Iterator[str]:
    """Serve the folders of ``root`` as buckets in a process of its own; yield the endpoint."""
    arguments = ["--root", str(root), "--delay-ms", str(delay_ms), *(["--log", str(log)] if log else [])]
    with start_announced("benchmarks.s3_facade", *arguments) as (url, _pid):
        yield url


def _write_data(folder: Path, index: int) -> None:
    ids = range(index * ROWS, (index + 1) * ROWS)
    columns = [pa.array(ids, pa.int64()), pa.array([f"name {i}" for i in ids]), pa.array([i / 7 for i in ids])]
    fields = [
        pa.field(name, ARROW[type_], metadata={"PARQUET:field_id": str(number)})
        for number, (name, type_) in enumerate(TYPES.items(), 1)
    ]
    pq.write_table(pa.table(columns, schema=pa.schema(fields)), folder / _name(index))


def _groups(n_files: int) -> list[range]:
    """Split the files among the commits."""
    n_commits = min(COMMITS, n_files)
    bounds = [n_files * commit // n_commits for commit in range(n_commits + 1)]
    return [range(start, limit) for start, limit in pairwise(bounds)]


def _write_delta(folder: Path, n_files: int) -> None:
    from deltalake import DeltaTable

    fields = [{"name": name, "type": type_, "nullable": True, "metadata": {}} for name, type_ in TYPES.items()]
    metadata = {
        "id": "8f0d7f0e-0000-4000-8000-000000000000", "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps({"type": "struct", "fields": fields}),
        "partitionColumns": [], "configuration": {}, "createdTime": 0,
    }  # fmt: skip
    first = [{"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}, {"metaData": metadata}]
    groups = _groups(n_files)
    for version, group in enumerate(groups):
        actions = [*(first if version == 0 else []), *({"add": _add(folder, index)} for index in group)]
        text = "".join(json.dumps(action) + "\n" for action in actions)
        (folder / "_delta_log" / f"{version:020}.json").write_text(text)
    DeltaTable(folder, version=len(groups) * 9 // 10).create_checkpoint()


def _add(folder: Path, index: int) -> dict[str, Any]:
    lower, upper = _bounds(index)
    stats = {"numRecords": ROWS, "minValues": lower, "maxValues": upper, "nullCount": dict.fromkeys(TYPES, 0)}
    name = _name(index)
    return {
        "path": name, "partitionValues": {}, "size": (folder / name).stat().st_size, "modificationTime": index,
        "dataChange": True, "stats": json.dumps(stats),
    }  # fmt: skip


def _name(index: int) -> str:
    return f"part-{index:05}.parquet"


def _bounds(index: int) -> tuple[dict[str, Any], dict[str, Any]]:
    first, last = index * ROWS, (index + 1) * ROWS - 1
    names = sorted([f"name {first}", f"name {last}"])
    return (
        {"id": first, "name": names[0], "value": first / 7},
        {"id": last, "name": names[1], "value": last / 7},
    )


def _write_iceberg(made: ManyFiles, *, s3: bool) -> None:
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.schema import Schema
    from pyiceberg.types import DoubleType, LongType, NestedField, StringType

    from benchmarks.bucket_io import ROOT

    types = {"long": LongType(), "string": StringType(), "double": DoubleType()}
    columns = [
        NestedField(number, name, types[type_], required=False) for number, (name, type_) in enumerate(TYPES.items(), 1)
    ]
    root = f"s3://{BUCKET}" if s3 else f"file://{made.root / BUCKET}"
    access = {"py-io-impl": "benchmarks.bucket_io.FolderBucketIO", ROOT: str(made.root)}
    catalog = SqlCatalog("made", uri="sqlite://", warehouse=root, **access)
    location = made.table("iceberg", s3=s3)
    catalog.create_namespace("made")
    table = catalog.create_table("made.many", Schema(*columns), location if s3 else f"file://{location}")
    for group in _groups(made.n_files):
        with table.transaction() as change, change.update_snapshot().fast_append() as append:
            for index in group:
                append.append_data_file(_data_file(f"{root}/delta/{_name(index)}", made, index))
    catalog.close()


def _data_file(location: str, made: ManyFiles, index: int) -> Any:
    from pyiceberg.conversions import to_bytes
    from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
    from pyiceberg.typedef import Record
    from pyiceberg.types import DoubleType, LongType, StringType

    types = (LongType(), StringType(), DoubleType())
    lower, upper = (dict(enumerate(map(to_bytes, types, each.values()), 1)) for each in _bounds(index))
    counts = dict.fromkeys(range(1, len(types) + 1), ROWS)
    return DataFile.from_args(
        content=DataFileContent.DATA, file_path=location, file_format=FileFormat.PARQUET, partition=Record(),
        record_count=ROWS, file_size_in_bytes=(made.root / BUCKET / "delta" / _name(index)).stat().st_size,
        value_counts=counts, null_value_counts=dict.fromkeys(counts, 0), nan_value_counts={}, column_sizes={},
        lower_bounds=lower, upper_bounds=upper, spec_id=0, sort_order_id=None, equality_ids=None, key_metadata=None,
        split_offsets=None,
    )  # fmt: skip
