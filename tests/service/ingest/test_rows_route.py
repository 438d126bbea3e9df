"""Rows over HTTP: stored whole and acknowledged, or refused whole with the row and the column."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from catalog.tables import Managed, TableEntry
from service.app import AppComponents, AppSettings, create_app
from service.auth import Caller
from service.executor import InlineExecutor
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import UnauthenticatedError
from storage.log import RecordKind
from storage.tables.write import TableSpec
from tests.support.http_app import NoTables
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio
ID = b"PARQUET:field_id"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), False, {ID: b"1"}),
        pa.field("name", pa.string(), True, {ID: b"2"}),
        pa.field("at", pa.timestamp("us", "UTC"), True, {ID: b"3"}),
    ]
)


async def verify(presented: str) -> Caller:
    if presented not in ("reader", "writer"):
        raise UnauthenticatedError("no such token")
    return Caller("reader" if presented == "reader" else "writer", presented)


@asynccontextmanager
async def served(
    folder: Path, *, tokens: bool = False, settings: AppSettings | None = None
) -> AsyncIterator[tuple[Lake, httpx.AsyncClient]]:
    """A lake with the tables ``events`` and, with a primary key, ``users``, and a client of its HTTP service."""
    async with open_lake(folder) as lake:
        for number, (name, key) in enumerate([("events", ()), ("users", ("id",))]):
            spec = TableSpec(f"{number:032x}", SCHEMA, 0, 3, key)
            location = f"file://{folder}/tables/default/{name}"
            managed = Managed(spec, {0: SCHEMA})
            await lake.engine.tables.create(
                TableEntry("default", name, spec.table_id, "delta", location, 0, managed=managed)
            )
        await lake.engine.tables.create(TableEntry("default", "old", "9" * 32, "parquet", f"file://{folder}/old", 0))
        clock = SystemClock()
        components = AppComponents(
            executor=InlineExecutor(lake.engine, clock),
            catalog=NoTables(),
            kv=lake.engine.kv,
            blobs=MemoryBlobs(clock),
            clock=clock,
            verify=verify if tokens else None,
            ingest=lake.engine,
        )
        transport = httpx.ASGITransport(create_app(components, settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield lake, client


async def stored(lake: Lake, name: str = "events") -> list[tuple[RecordKind, list[dict[str, Any]]]]:
    """The records of one table, decoded."""
    entry = await lake.engine.tables.get("default", name)
    found = await (await lake.engine.logs.log(0)).read(0)
    return [
        (item.record.kind, pa.ipc.open_stream(item.record.body).read_all().to_pylist())
        for item in found.records
        if item.record.table_id == entry.id
    ]


async def test_rows_are_acknowledged_and_lie_in_the_log(tmp_path: Path) -> None:
    async with served(tmp_path) as (lake, client):
        answer = await client.post("/v1/tables/default.events/rows", json=[{"id": 1, "name": "a"}, {"id": 2}])
        assert answer.status_code == 200
        told = answer.json()
        assert (told["table"], told["rows"], told["ack"]) == ("default.events", 2, "fsync")
        assert told["position"] == 0
        assert told["receipt"]["bytes"] > 0
        again = await client.post("/v1/tables/events/rows?ack=object", json={"id": 3})
        assert (again.json()["ack"], again.json()["position"]) == ("object", 1)
        assert [(kind, [row["id"] for row in rows]) for kind, rows in await stored(lake)] == [
            (RecordKind.APPEND, [1, 2]),
            (RecordKind.APPEND, [3]),
        ]
        metrics = (await client.get("/metrics")).text
        assert 'firnline_ingest_requests_total{outcome="succeeded"} 2.0' in metrics
        assert "firnline_ingest_rows_total 3.0" in metrics


async def test_a_retry_with_the_same_key_stores_nothing_twice(tmp_path: Path) -> None:
    async with served(tmp_path) as (lake, client):
        headers = {"Idempotency-Key": "k-1"}
        first = (await client.post("/v1/tables/events/rows", json=[{"id": 1}], headers=headers)).json()
        second = (await client.post("/v1/tables/events/rows", json=[{"id": 1}], headers=headers)).json()
        assert "idempotent_replay" not in first
        assert second["idempotent_replay"] is True
        assert second["position"] == first["position"]
        other = (await client.post("/v1/tables/users/rows", json=[{"id": 1}], headers=headers)).json()
        assert "idempotent_replay" not in other  # a key counts for its table
        assert len(await stored(lake)) == 1


async def test_a_table_with_a_primary_key_gets_upserts_of_which_the_last_wins(tmp_path: Path) -> None:
    async with served(tmp_path) as (lake, client):
        rows = [{"id": 1, "name": "old"}, {"id": 2}, {"id": 1, "name": "new"}]
        answer = await client.post("/v1/tables/users/rows?on_conflict=update", json=rows)
        assert answer.json()["rows"] == 3
        ((kind, found),) = await stored(lake, "users")
        assert kind is RecordKind.UPSERT
        assert sorted((row["id"], row["name"]) for row in found) == [(1, "new"), (2, None)]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-ndjson", b'{"id":1,"name":"a"}\n{"id":2}\n'),
        ("text/csv", b"id,name\n1,a\n2,\n"),
        ("application/vnd.apache.arrow.stream", None),
        ("application/vnd.apache.parquet", None),
    ],
)
async def test_every_format_stores_the_same_rows(tmp_path: Path, content_type: str, body: bytes | None) -> None:
    if body is None:
        import pyarrow.parquet as pq

        sink, table = pa.BufferOutputStream(), pa.table({"id": [1, 2], "name": ["a", None]})
        if "parquet" in content_type:
            pq.write_table(table, sink)
        else:
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
        body = sink.getvalue().to_pybytes()
    async with served(tmp_path) as (lake, client):
        for packed, headers in ((body, {}), (gzip.compress(body), {"Content-Encoding": "gzip"})):
            answer = await client.post(
                "/v1/tables/events/rows", content=packed, headers={"Content-Type": content_type} | headers
            )
            assert answer.status_code == 200, answer.text
        expected = [{"id": 1, "name": "a", "at": None}, {"id": 2, "name": None, "at": None}]
        assert [rows for _kind, rows in await stored(lake)] == [expected, expected]


async def test_nothing_of_a_request_with_a_wrong_row_is_stored(tmp_path: Path) -> None:
    async with served(tmp_path) as (lake, client):
        rows: list[dict[str, Any]] = [{"id": number} for number in range(100)]
        rows[70]["at"] = "yesterday"
        answer = await client.post("/v1/tables/events/rows", json=rows)
        problem = answer.json()
        assert (answer.status_code, problem["title"], problem["row"], problem["column"]) == (
            400,
            "InvalidError",
            71,
            "at",
        )
        assert '"yesterday"' in problem["detail"]
        null_key = await client.post("/v1/tables/users/rows", json=[{"id": 1}, {"name": "x"}])
        assert (null_key.status_code, null_key.json()["row"], null_key.json()["column"]) == (400, 2, "id")
        assert await stored(lake) == await stored(lake, "users") == []


@pytest.mark.parametrize(
    ("path", "headers", "status", "detail"),
    [
        ("none", {}, 404, "no such table"),
        ("old", {}, 400, "external"),
        ("events?ack=maybe", {}, 400, "object or fsync"),
        ("events?akc=object", {}, 400, 'did you mean "ack"'),
        ("events?on_conflict=nothing", {}, 400, "primary key"),
        ("users?on_conflict=never", {}, 400, "on_conflict"),
        ("events?delimiter=;", {}, 400, "CSV"),
        ("events", {"Content-Type": "text/html"}, 415, "application/json"),
        ("events", {"Content-Encoding": "br"}, 415, "gzip"),
        ("events", {"Idempotency-Key": ""}, 400, "255"),
        ("events", {"Idempotency-Key": "x" * 256}, 400, "255"),
    ],
)
async def test_a_wrong_request_says_what_is_wrong(
    tmp_path: Path, path: str, headers: dict[str, str], status: int, detail: str
) -> None:
    name, _, query = path.partition("?")
    async with served(tmp_path) as (lake, client):
        url = f"/v1/tables/{name}/rows" + (f"?{query}" if query else "")
        answer = await client.post(url, content=b'[{"id": 1}]', headers={"Content-Type": "application/json"} | headers)
        assert (answer.status_code, detail in answer.json()["detail"]) == (status, True), answer.text
        assert await stored(lake) == []


async def test_readers_may_not_write_and_strangers_neither(tmp_path: Path) -> None:
    async with served(tmp_path, tokens=True) as (lake, client):
        for token, status in ((None, 401), ("reader", 403), ("writer", 200)):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            answer = await client.post("/v1/tables/events/rows", json=[{"id": 1}], headers=headers)
            assert answer.status_code == status
        assert len(await stored(lake)) == 1


async def test_a_body_past_the_limit_is_refused_also_once_it_is_unpacked(tmp_path: Path) -> None:
    async with served(tmp_path, settings=AppSettings(rows_bytes_max=1000)) as (lake, client):
        body = json.dumps([{"id": number} for number in range(500)]).encode()
        plain = await client.post("/v1/tables/events/rows", content=body)
        packed = await client.post(
            "/v1/tables/events/rows", content=gzip.compress(body), headers={"Content-Encoding": "gzip"}
        )
        assert (plain.status_code, packed.status_code) == (413, 413)
        assert "firn import" in plain.json()["detail"]
        assert await stored(lake) == []
