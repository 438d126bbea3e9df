"""Data files that were written and are in no table yet, as rows: how a worker tells a coordinator what to commit."""

from __future__ import annotations

import datetime as dt
import io
import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import CorruptError
from storage.tables.write import DataFile

__all__ = ["FILE_FACTS", "decode_files", "encode_files"]

FILE_FACTS = pa.schema(
    [("location", pa.string()), ("size", pa.int64()), ("partition", pa.string()), ("footer", pa.binary())]
)


def encode_files(files: Sequence[DataFile]) -> pa.RecordBatch:
    """Return the files as rows of `FILE_FACTS`; the footer is a Parquet file without data."""
    rows = []
    for file in files:
        footer = io.BytesIO()
        file.metadata.write_metadata_file(footer)
        partition = {name: _tagged(value) for name, value in file.partition.items()}
        rows.append((file.location, file.size, json.dumps(partition), footer.getvalue()))
    columns = list(zip(*rows, strict=True)) or [()] * len(FILE_FACTS)
    return pa.record_batch([pa.array(each, field.type) for each, field in zip(columns, FILE_FACTS, strict=True)],
                           schema=FILE_FACTS)  # fmt: skip


def decode_files(rows: pa.RecordBatch) -> list[DataFile]:
    """Return the files. Raises `CorruptError` naming one whose facts do not read."""
    files = []
    for row in rows.to_pylist():
        try:
            partition = {name: _untagged(value) for name, value in json.loads(row["partition"]).items()}
            metadata = pq.read_metadata(pa.BufferReader(row["footer"]))
        except (ValueError, KeyError, AttributeError, pa.ArrowException, OSError) as error:
            raise CorruptError(
                "facts of a data file cannot be read", file=row.get("location"), reason=str(error)
            ) from None
        files.append(DataFile(row["location"], row["size"], partition, metadata))
    return files


def _tagged(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": b64encode(value).decode("ascii")}
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    if isinstance(value, dt.datetime):
        return {"datetime": value.isoformat()}
    if isinstance(value, dt.date):
        return {"date": value.isoformat()}
    return value


def _untagged(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    [(kind, text)] = value.items()
    match kind:
        case "bytes":
            return b64decode(text)
        case "decimal":
            return Decimal(text)
        case "datetime":
            return dt.datetime.fromisoformat(text)
        case "date":
            return dt.date.fromisoformat(text)
    raise ValueError(f"a value of an unknown kind: {kind}")
