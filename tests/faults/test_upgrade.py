"""Old and new releases beside each other: coordinators and workers, servers on one lake, and what old ones left there.

Workers that refuse a coordinator's tasks are in `test_rolling_release.py`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from catalog.kv import Put
from functions.tasks import Task, encode_task
from service.compaction import Compaction, compact_lake
from service.executor import InlineExecutor
from service.log.owned import EntryRange
from service.log.wire import (
    decode_append,
    decode_range,
    decode_receipt,
    encode_append,
    encode_range,
    encode_receipt,
    pack,
    unpack,
)
from service.settings import FunctionAccess
from service.statement import Limits, Statement
from storage.errors import ConflictError, UnsupportedError
from storage.log import AckMode, Position, Receipt, Record, RecordKind
from storage.log.access import Touched
from storage.log.records import encode_record
from storage.log.tail import Entry
from tests.support.golden_lake import ANSWERS, GOLDEN, open_unpacked
from tests.support.lakes import Lake, open_lake
from tests.support.other_release import PREFIX, SECRET, Change, between, plus, without

pytestmark = pytest.mark.anyio

SQL = "SELECT a.g, count(*) AS n, sum(a.v) AS s FROM t a JOIN t b ON a.k = b.k GROUP BY a.g ORDER BY a.g"
VERSIONS = sorted(path.name.removesuffix(".tar.gz") for path in GOLDEN.glob("*.tar.gz"))


def fewer_in_usage(header: dict[str, Any]) -> dict[str, Any]:
    """As a release told that knew nothing but times."""
    return {**header, "usage": {name: header["usage"][name] for name in ("wall_ms", "cpu_ms")}}


def more_in_pages(header: dict[str, Any]) -> dict[str, Any]:
    return {**header, "pages": [{**page, "rows_by_key": {"a": 1}} for page in header["pages"]]}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def lake(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lake]:
    functions = FunctionAccess(place="inline", secret=SECRET, broadcast_bytes=0)
    async with open_lake(tmp_path_factory.mktemp("upgrade"), functions=functions) as opened:
        chance = np.random.default_rng(7)
        for number in range(4):
            rows = {"k": chance.integers(0, 500, 2000), "g": [f"g{n % 5}" for n in range(2000)], "v": range(2000)}
            opened.write(f"t/{number}.parquet", pa.table(rows))
        await opened.table(f"CREATE EXTERNAL TABLE t STORED AS parquet LOCATION '{opened.folder}/t'")
        yield opened


async def ask(lake: Lake, functions: Any = "fan-out") -> list[Any]:
    statement = Statement(
        SQL, lake.engine.clock.new_id(), limits=Limits(timeout_ms=60_000), functions=functions, max_tasks=3,
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    )  # fmt: skip
    result = await InlineExecutor(lake.engine, lake.engine.clock).run(statement)
    batches = [batch async for batch in result.batches]
    lake.receipt = result.receipt
    return pa.Table.from_batches(batches, result.schema).to_pylist()


# Coordinators and workers


@pytest.mark.parametrize(
    ("tasks", "replies"),
    [
        (without("traceparent", "memory_bytes"), None),
        (without("engine"), None),
        (without("traceparent", "memory_bytes", "engine", "deadline_ms", "inline_bytes_max", "body"), None),
        (plus(priority=7, colours=["red"], must=[]), None),
        (plus(priority=7, must=["attempt", "engine"]), None),
        (None, fewer_in_usage),
        (None, without("body", "error")),
        (None, plus(advice={"split": True}, must=["pages"])),
        (None, more_in_pages),
        (without("engine", "traceparent"), fewer_in_usage),
    ],
    ids=["an older coordinator", "one that names no engine", "the oldest coordinator", "a newer coordinator",
         "a newer one that insists on what is known", "an older worker", "the oldest worker", "a newer worker",
         "a newer worker that says more of pages", "an older coordinator and an older worker"],
)  # fmt: skip
async def test_another_release_at_the_other_end_gives_the_same_rows(
    lake: Lake, tasks: Change | None, replies: Change | None
) -> None:
    wanted = await ask(lake, "inline")
    await between(lake, tasks=tasks, replies=replies)
    assert await ask(lake) == wanted
    assert lake.receipt.tasks > 1


def test_what_is_written_names_no_field_that_version_1_lacks() -> None:
    """Whoever adds a field: an old worker ignores it. Where it must not, name it in ``must`` and add it here."""
    message = encode_task(Task("scan", "s", "0.0", {}, engine="datafusion 1"), SECRET.encode())
    _magic, version, n_bytes = PREFIX.unpack_from(message)
    header = json.loads(message[PREFIX.size : PREFIX.size + n_bytes])
    assert version == 1
    assert header.keys() == {
        "kind", "statement_id", "id", "attempt", "body", "inputs", "deadline_ms", "inline_bytes_max", "results",
        "traceparent", "memory_bytes", "engine", "parts",
    }  # fmt: skip


# Writers and the log's owner


def test_the_log_is_asked_and_answers_in_words_that_may_grow() -> None:
    """Who appends and who owns the log may be of different releases: each reads what it knows."""

    def grown(body: bytes) -> bytes:
        header, payload = unpack(body)
        return pack({**header, "priority": 3, "hints": ["x"]}, bytes(payload))

    record = encode_record(Record("t", 1, RecordKind.APPEND, b"rows", "key"), 1)
    touched = Touched(np.array([1, 2], np.uint64), (3, 4))
    encoded, ack, keys = decode_append(grown(encode_append([record], AckMode.FSYNC, touched)))
    assert (encoded, ack) == ([record], AckMode.FSYNC)
    assert keys is not None
    assert (keys.keys.tolist(), keys.since) == ([1, 2], (3, 4))
    receipt = Receipt(Position(3, 9), 1, AckMode.OBJECT)
    assert decode_receipt(grown(encode_receipt(receipt))) == receipt
    found = EntryRange(9, 10, [Entry(Position(3, 9), [record])], 3, more=True)
    assert decode_range(grown(encode_range(found))) == found


# What an old release left


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_lake_of_an_old_release_is_read_written_and_folded(version: str, tmp_path: Path) -> None:
    async with open_unpacked(version, tmp_path) as lake:
        for sql, answer in ANSWERS.items():
            assert await lake.rows(sql) == answer
        await lake.table("INSERT INTO users VALUES (61, 8)")
        await lake.table("UPDATE users SET n = n + 1 WHERE k = 60")
        assert await lake.rows("SELECT k, n FROM users WHERE k >= 60 ORDER BY k") == [(60, 8), (61, 8)]
        engine = lake.engine
        parts = Compaction(engine.stores, engine.logs, engine.tables, engine.clock, engine.lake)
        for shard in (0,):
            await (await engine.logs.log(shard)).flush()
        report = await compact_lake(parts)
        assert report.errors == {}
        assert report.fold.total["records"] > 0
        assert await lake.rows("SELECT count(*), sum(id) FROM events") == [(120, 7140)]
        assert await lake.rows("SELECT k, n FROM users WHERE k IN (3, 4, 60)  ORDER BY k") == [(3, 1003), (60, 8)]
        assert await lake.rows("SELECT count(*), max(day) FROM days") == [(4, "2026-03-04")]
        await lake.table("DROP INDEX by_k ON users")
        await lake.table("CREATE INDEX by_k ON users (k)")
        assert await lake.rows("SELECT n FROM users WHERE k = 61") == [(8,)]


async def test_catalog_entries_with_more_in_them_are_read(tmp_path: Path) -> None:
    """A newer server on the same lake may say more of a table; an older one reads what it knows."""
    async with open_lake(tmp_path) as lake:
        await lake.table("CREATE TABLE t (k BIGINT, PRIMARY KEY (k)) USING delta")
        await lake.table("INSERT INTO t VALUES (1)")
        found = await lake.engine.kv.get("table/default/t")
        assert found is not None
        document = json.loads(found.value) | {"colour": "red"}
        document["managed"]["mood"] = "good"
        put = Put(found.key, json.dumps(document).encode())
        assert (await lake.engine.kv.txn({found.key: found.revision}, [put])).succeeded
        assert await lake.value("SELECT count(*) FROM t") == 1
        await lake.table("INSERT INTO t VALUES (2)")
        await lake.table("ALTER TABLE t ADD COLUMN n INT")
        await lake.table("ALTER TABLE t RENAME TO u")
        assert await lake.value("SELECT count(*) FROM u") == 2
        kept = await lake.engine.kv.get("table/default/u")
        assert kept is not None
        document = json.loads(kept.value)
        assert (document["colour"], document["managed"]["mood"]) == ("red", "good")


async def test_only_statements_that_name_a_table_of_a_newer_form_fail(tmp_path: Path) -> None:
    async with open_lake(tmp_path) as lake:
        kv = lake.engine.kv
        for name in ("t", "u"):
            await lake.table(f"CREATE TABLE {name} (k BIGINT, PRIMARY KEY (k)) USING delta")
            await lake.table(f"INSERT INTO {name} VALUES (1), (2)")
        found = await kv.get("table/default/t")
        assert found is not None
        put = Put(found.key, json.dumps(json.loads(found.value) | {"v": 9}).encode())
        assert (await kv.txn({found.key: found.revision}, [put])).succeeded
        for sql in ("SELECT count(*) FROM t", "SELECT k FROM t WHERE k = 1", "INSERT INTO t VALUES (3)", "OPTIMIZE t",
                    "SELECT count(*) FROM u JOIN t USING (k)", "DESCRIBE t", "SHOW HISTORY FROM t",
                    "SELECT * FROM t FOR VERSION AS OF 0", "CREATE INDEX i ON t (k)", "DELETE FROM t",
                    "CREATE TABLE t (k BIGINT) USING delta"):  # fmt: skip
            with pytest.raises((UnsupportedError, ConflictError), match=r"upgrade table=default|exists already"):
                await lake.table(sql)
        assert await lake.value("SELECT count(*) FROM u") == 2
        await lake.table("INSERT INTO u VALUES (3)")
        await lake.table("UPDATE u SET k = 4 WHERE k = 3")
        await lake.table("CREATE TABLE w AS SELECT k FROM u")
        await lake.table("OPTIMIZE u")
        assert await lake.rows("SELECT k FROM u WHERE k > 1 ORDER BY k") == [(2,), (4,)]
        assert {row[1] for row in await lake.rows("SHOW TABLES")} == {"u", "w"}
        engine = lake.engine
        report = await compact_lake(Compaction(engine.stores, engine.logs, engine.tables, engine.clock, engine.lake))
        assert set(report.errors) == {"default.t"}
        # Its rows are still in the log: a release that reads the entry has them.
        changed = await kv.get(found.key)
        assert changed is not None
        assert (await kv.txn({found.key: changed.revision}, [Put(found.key, found.value)])).succeeded
        assert await lake.rows("SELECT k FROM t ORDER BY k") == [(1,), (2,)]
        await lake.table("OPTIMIZE t")
        assert await lake.rows("SELECT k FROM t ORDER BY k") == [(1,), (2,)]
