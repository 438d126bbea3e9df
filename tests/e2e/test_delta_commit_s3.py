"""Commits to a Delta table in S3: concurrent writers, deltalake among them, lose nothing."""

from __future__ import annotations

import asyncio
from collections import Counter

import deltalake
import pyarrow as pa
import pytest

from storage.blobs.open import open_blobs
from storage.clock import SystemClock
from storage.stores import Stores
from storage.tables.delta import load
from storage.tables.delta.commit import DeltaWriter
from storage.tables.snapshot import At
from storage.tables.write import Change
from tests.support.delta_read import read_rows
from tests.support.delta_write import data_file, make_spec
from tests.support.moto import create_bucket, moto_endpoint, moto_options

__all__ = ["moto_endpoint"]
pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

SCHEMA = pa.schema([("id", pa.int64())])
TABLE = "s3://delta-commits/lake/t é"


def rows(number: int) -> pa.Table:
    return pa.table({"id": [number]}, SCHEMA)


def stores_on(endpoint: str) -> Stores:
    return Stores(lambda root: open_blobs(root, s3=moto_options(endpoint), clock=SystemClock()))


async def write_some(endpoint: str, writer: int) -> None:
    stores = stores_on(endpoint)
    for n in range(3):
        number = writer * 10 + n
        file = await data_file(stores, TABLE, f"p=%2F/{number}.parquet", rows(number))
        base = await load(stores, TABLE, At(), None)
        await DeltaWriter(stores, TABLE, SystemClock()).commit(base, Change("insert", (file,)))
    await stores.close()


async def test_writers_in_s3_lose_nothing_and_deltalake_reads_the_same(moto_endpoint: str) -> None:
    create_bucket(moto_endpoint, "delta-commits")
    options = {
        "AWS_ENDPOINT_URL": moto_endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
    }  # fmt: skip
    stores = stores_on(moto_endpoint)
    await DeltaWriter(stores, TABLE, SystemClock()).create(make_spec(SCHEMA))

    def theirs() -> None:
        for n in range(3):
            deltalake.write_deltalake(TABLE, rows(900 + n), mode="append", storage_options=options)

    await asyncio.gather(asyncio.to_thread(theirs), *(write_some(moto_endpoint, writer) for writer in range(4)))
    snapshot = await load(stores, TABLE, At(), None)
    expected = Counter([w * 10 + n for w in range(4) for n in range(3)] + [900, 901, 902])
    assert Counter((await read_rows(stores, snapshot)).column("id").to_pylist()) == expected
    table = deltalake.DeltaTable(TABLE, storage_options=options)
    assert Counter(pa.table(table.to_pyarrow_table()).column("id").to_pylist()) == expected
    assert snapshot.version == table.version() == 15
    await stores.close()
