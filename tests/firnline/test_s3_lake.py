"""A lake in a bucket, named by the environment's own variables, against a real S3 API."""

import io
from collections.abc import Iterator

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from firnline.connection import connect
from firnline.settings import Settings, read
from storage.errors import FirnlineError, NotFoundError
from tests.support.firn import firn
from tests.support.moto import create_bucket, start_moto


@pytest.fixture(scope="module")
def aws() -> Iterator[dict[str, str]]:
    """The environment of a store with one bucket that holds ``data/numbers.parquet``."""
    with start_moto() as endpoint:
        create_bucket(endpoint, "warehouse")
        sink = io.BytesIO()
        pq.write_table(pa.table({"n": list(range(100))}), sink)
        httpx.put(
            f"{endpoint}/warehouse/data/numbers.parquet", content=sink.getvalue(), trust_env=False
        ).raise_for_status()
        yield {
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
        }


@pytest.fixture
def settings(aws: dict[str, str]) -> Settings:
    return read(aws)


def test_a_bucket_is_a_lake_without_a_database(settings: Settings) -> None:
    with connect("s3://warehouse/lake", settings=settings) as lake:
        lake.sql("CREATE EXTERNAL TABLE numbers STORED AS parquet LOCATION 's3://warehouse/data/numbers.parquet'")
    with connect("s3://warehouse/lake", settings=settings) as again:
        assert again.tables().to_pylist()[0]["table_name"] == "numbers"
        answer = again.sql("SELECT sum(n) AS total FROM numbers WHERE n >= :low", {"low": 90})
        assert answer.to_pylist() == [{"total": 945}]
        assert answer.receipt.bytes_scanned > 0


def test_the_command_line_takes_the_same_environment(aws: dict[str, str]) -> None:
    query = "SELECT count(*) AS n FROM parquet('s3://warehouse/data/*.parquet')"
    done = firn("sql", "-l", "s3://warehouse/elsewhere", "-f", "csv", query, **aws)
    assert (done.stdout, done.stderr) == (b"n\r\n100\r\n", b"")


def test_a_bucket_that_is_not_there_is_named(settings: Settings) -> None:
    with connect("s3://warehouse/lake", settings=settings) as lake, pytest.raises(NotFoundError, match="nowhere"):
        lake.sql("SELECT * FROM parquet('s3://nowhere/x.parquet')")
    with pytest.raises(FirnlineError, match="nowhere"), connect("s3://nowhere/lake", settings=settings) as lake:
        lake.sql("CREATE SCHEMA x")
