"""The benchmark's S3 facade answers the clients that are measured against it, and counts what they ask."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "aws_region": "us-east-1"}


@contextmanager
def running(root: Path, *arguments: str) -> Iterator[str]:
    """Run the facade as benchmarks do, and yield its URL."""
    command = [sys.executable, "-m", "benchmarks.s3_facade", "--root", str(root), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.terminate()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Six Parquet files in two folders with odd names, the numbers 0 to 5,999."""
    for n in range(6):
        folder = tmp_path / "bucket" / "table" / f"y=20{n % 2} é"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"i": range(1000 * n, 1000 * n + 1000)}), folder / f"part {n}.parquet")
    return tmp_path


def counts(url: str) -> dict[str, int]:
    with urllib.request.urlopen(url + "/_requests", timeout=10) as response:
        answer: dict[str, int] = json.load(response)
    urllib.request.urlopen(urllib.request.Request(url + "/_reset", method="POST"), timeout=10).close()
    return answer


def test_datafusion_reads_and_writes_through_it(table: Path) -> None:
    from datafusion import SessionContext
    from datafusion.object_store import AmazonS3

    with running(table) as url:
        store = AmazonS3(
            bucket_name="bucket",
            region="us-east-1",
            access_key_id="test",
            secret_access_key="test",
            endpoint=url,
            allow_http=True,
        )
        context = SessionContext()
        context.register_object_store("s3://", store, host="bucket")
        context.sql("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://bucket/table/'")
        [row] = context.sql("SELECT count(*) AS n, sum(i) AS total FROM t").to_pylist()
        assert row == {"n": 6000, "total": 17_997_000}
        asked = counts(url)
        assert asked["LIST"] == 1
        assert asked["total"] == asked["LIST"] + asked["GET"]
        context.sql("COPY (SELECT i FROM t) TO 's3://bucket/out/x.parquet' STORED AS PARQUET").collect()
        assert counts(url)["PUT"] == 1
    assert pq.read_table(table / "bucket" / "out" / "x.parquet").num_rows == 6000


def test_polars_reads_through_it(table: Path) -> None:
    import polars as pl

    with running(table) as url:
        options = {**KEYS, "aws_endpoint_url": url, "aws_allow_http": "true"}
        frame = pl.scan_parquet("s3://bucket/table/**/*.parquet", storage_options=options)
        assert frame.select(pl.len(), pl.col("i").sum()).collect().rows() == [(6000, 17_997_000)]


def test_boto3_lists_by_delimiter_and_uploads_in_parts(table: Path) -> None:
    import boto3

    for name in ("a", "b/1", "b/2", "c", "d/1"):
        (table / "bucket" / name).parent.mkdir(exist_ok=True)
        (table / "bucket" / name).write_bytes(b"content")
    with running(table) as url:
        s3 = boto3.client(
            "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
        )
        pages = s3.get_paginator("list_objects_v2").paginate(
            Bucket="bucket", Delimiter="/", PaginationConfig={"PageSize": 2}
        )
        found = [(page.get("Contents", []), page.get("CommonPrefixes", [])) for page in pages]
        assert [item["Key"] for items, _ in found for item in items] == ["a", "c"]
        assert [item["Prefix"] for _, items in found for item in items] == ["b/", "d/", "table/"]
        content = bytes(range(256)) * (20 << 12)
        s3.upload_fileobj(io.BytesIO(content), "bucket", "large é")
        assert (table / "bucket" / "large é").read_bytes() == content
        s3.delete_objects(Bucket="bucket", Delete={"Objects": [{"Key": "large é"}, {"Key": "none"}]})
        assert not (table / "bucket" / "large é").exists()
        s3.close()


@pytest.mark.anyio
async def test_every_request_waits_as_long_as_asked_and_together_they_do_not(tmp_path: Path) -> None:
    from storage.blobs.s3 import S3Blobs
    from storage.clock import SystemClock
    from tests.support.moto import moto_options

    (tmp_path / "bucket").mkdir()
    log = tmp_path / "log"
    with running(tmp_path, "--delay-ms", "50", "--log", str(log)) as url:
        blobs = S3Blobs("bucket", moto_options(url), SystemClock())
        await blobs.put("blob", b"content")
        started = time.monotonic()
        await blobs.get_range("blob", 2, 5)
        assert time.monotonic() - started >= 0.05
        started = time.monotonic()
        await asyncio.gather(*(blobs.head("blob") for _ in range(100)))
        assert time.monotonic() - started < 100 * 0.05 / 2
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["kind"] for line in lines[:2]] == ["PUT", "GET"]
    assert (lines[1]["range"], lines[1]["status"], lines[1]["bytes"]) == ("bytes=2-4", 206, 3)
