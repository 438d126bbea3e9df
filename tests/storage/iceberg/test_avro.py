"""Manifests as bytes: every codec, odd names, and no damage that does more than raise."""

import io
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import FirnlineError
from storage.tables.iceberg.avro import open_avro
from storage.tables.iceberg.avro_codecs import write_long
from storage.tables.iceberg.manifests import ManifestFile, read_manifest
from storage.tables.iceberg.metadata import partition_spec
from tests.support.iceberg_build import File, Manifest, manifest_bytes

SPEC = {0: partition_spec(0, [{"name": "p", "transform": "identity", "source-id": 1, "field-id": 1000}])}
FILE = ManifestFile("s3://b/m.avro", 0, 0, 7)


def manifest(codec: str = "deflate", n_files: int = 3) -> bytes:
    files = [
        File(f"s3://b/{i}.parquet", 10, i, partition={"p": i}, lower={1: b"\x01\x00\x00\x00"}, nulls={1: i})
        for i in range(n_files)
    ]
    return manifest_bytes(Manifest(files, partition={("p", 1000): "int"}), codec)


def recoded(data: bytes, codec: str) -> bytes:
    """An uncompressed container under another codec, its blocks compressed by pyarrow."""
    reader = fastavro.block_reader(io.BytesIO(data))
    out = io.BytesIO()
    empty = io.BytesIO()
    fastavro.writer(empty, reader.writer_schema, [], codec="null")  # type: ignore[arg-type]
    head = empty.getvalue().replace(b"\x08null", write_long(len(codec)) + codec.encode())
    out.write(head)
    for block in reader:
        raw = block.bytes_.getvalue()
        if codec == "snappy":
            packed = pa.Codec("snappy").compress(raw).to_pybytes() + b"\x00\x00\x00\x00"
        else:
            packed = pa.Codec("zstd").compress(raw).to_pybytes()
        out.write(write_long(block.num_records) + write_long(len(packed)) + packed + head[-16:])
    return out.getvalue()


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
def test_manifests_of_every_codec_are_read(codec: str) -> None:
    read = read_manifest(manifest(codec), FILE, SPEC, "s3://b")
    assert read.paths == [f"s3://b/{i}.parquet" for i in range(3)]
    assert read.sequence_numbers.tolist() == [7, 7, 7]
    assert read.partitions == [(0,), (1,), (2,)]
    assert read.null_counts[1].values.to_pylist() == [0, 1, 2]


@pytest.mark.parametrize("codec", ["snappy", "zstandard"])
def test_codecs_that_need_other_packages_are_read_without_them(codec: str) -> None:
    read = read_manifest(recoded(manifest("null"), codec), FILE, SPEC, "s3://b")
    assert read.partitions == [(0,), (1,), (2,)]


def test_fields_are_found_by_id_or_by_name_whatever_else_they_are_called() -> None:
    inner = {"type": "record", "name": "r-2!", "fields": [{"name": "Weg", "type": "string", "field-id": 100}]}
    again = {"type": "array", "items": "r-2!"}
    fields: list[dict[str, Any]] = [
        {"name": "9 odd", "type": inner, "field-id": 2},
        {"name": "list", "type": again},
        {"name": "status", "type": {"type": "int", "logicalType": "date"}},
    ]
    head = io.BytesIO()
    plain = fastavro.parse_schema(
        {
            "type": "record",
            "name": "e",
            "fields": [
                {"name": "a", "type": {"type": "record", "name": "r", "fields": [{"name": "w", "type": "string"}]}},
                {"name": "b", "type": {"type": "array", "items": "r"}},
                {"name": "c", "type": "int"},
            ],
        }
    )
    fastavro.writer(head, plain, [{"a": {"w": "x"}, "b": [{"w": "y"}], "c": 5}], codec="null")
    data = _with_schema(head.getvalue(), {"type": "record", "name": "e", "fields": fields})
    (record,) = open_avro(data, "m", {"status": 0}).records()
    assert record["f2"] == {"f100": "x"}
    assert record["f0"] == 5
    assert [{"f100": "y"}] in record.values()


def _with_schema(data: bytes, schema: dict[str, Any]) -> bytes:
    import json

    from storage.tables.iceberg import avro

    header, at = avro._header(data)
    return avro._encoded_header(header | {"avro.schema": json.dumps(schema).encode()}) + data[at:]


WHOLE = manifest("null")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255), st.integers(0, len(WHOLE)))
def test_a_damaged_manifest_raises_an_error_of_ours_or_reads(at: int, byte: int, limit: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[at] = byte
    for data in (bytes(damaged), WHOLE[:limit]):
        try:
            read_manifest(data, FILE, SPEC, "s3://b")
        except FirnlineError as error:
            assert "m.avro" in str(error) or "path=" in str(error) or "file=" in str(error)


def test_ten_thousand_entries_decode_in_well_under_a_second() -> None:
    import time

    data = manifest(n_files=10_000)
    start = time.process_time()
    assert len(read_manifest(data, FILE, SPEC, "s3://b").paths) == 10_000
    assert time.process_time() - start < 2.0  # 0.2 s on an idle machine
