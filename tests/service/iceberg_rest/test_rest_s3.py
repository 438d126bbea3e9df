"""The Iceberg REST catalog over a lake in a bucket, with the server's S3 settings told to its clients."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.schema import Schema
from pyiceberg.types import LongType, NestedField

from firnline import connect
from service.iceberg_rest.open import _s3_config
from service.server import ServeSettings
from service.settings import EngineSettings
from storage.blobs.s3_options import S3Options
from tests.support.moto import create_bucket, moto_endpoint, moto_options
from tests.support.serving import serving

__all__ = ["moto_endpoint"]

SCHEMA = Schema(NestedField(1, "id", LongType(), required=True))


def rows(*ids: int) -> pa.Table:
    return pa.table({"id": list(ids)}, pa.schema([pa.field("id", pa.int64(), False)]))


@pytest.mark.e2e
def test_a_client_without_settings_of_its_own_reads_and_writes_a_bucket(
    moto_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    create_bucket(moto_endpoint, "icehouse")
    engine = EngineSettings(lake="s3://icehouse/lake", allow=(), s3=moto_options(moto_endpoint))
    with serving(ServeSettings(engine, port=0, iceberg_credentials=True)) as url:
        catalog = RestCatalog("firn", uri=f"{url}/iceberg", token="none")
        table = catalog.create_table("default.t", SCHEMA)
        assert table.location().startswith("s3://icehouse/lake/tables/default/t-")
        table.append(rows(1, 2))
        with connect(url) as connection:
            connection.sql("INSERT INTO t VALUES (3)")
            connection.sql("OPTIMIZE t")
        table = catalog.load_table("default.t")
        table.append(rows(4))
        assert sorted(table.scan().to_arrow()["id"].to_pylist()) == [1, 2, 3, 4]
        with connect(url) as connection:
            assert pa.table(connection.sql("SELECT count(*) AS n FROM t")).to_pylist() == [{"n": 4}]


def test_settings_go_by_the_names_that_clients_know() -> None:
    options = S3Options("http://127.0.0.1:9000", "eu-1", "key", "secret")
    assert _s3_config(options) == {
        "s3.endpoint": "http://127.0.0.1:9000",
        "s3.region": "eu-1",
        "s3.access-key-id": "key",
        "s3.secret-access-key": "secret",
        "s3.path-style-access": "true",
    }
