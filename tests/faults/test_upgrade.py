"""Old and new releases beside each other: coordinators and workers, servers on one lake, and what old ones left there.

A coordinator or worker of another release is played by rewriting signed messages on their way: fields that an older one
does not know are gone, fields that a newer one has are there.
"""

from __future__ import annotations

import hmac
import json
import struct
from collections.abc import AsyncIterator, Callable, Mapping
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
from storage.errors import CorruptError, FirnlineError
from storage.log import AckMode, Position, Receipt, Record, RecordKind
from storage.log.access import Touched
from storage.log.records import encode_record
from storage.log.tail import Entry
from tests.support.faulty_invoker import FaultyInvoker
from tests.support.golden_lake import ANSWERS, GOLDEN, open_unpacked
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio

SECRET = "a secret of this test"
SQL = "SELECT a.g, count(*) AS n, sum(a.v) AS s FROM t a JOIN t b ON a.k = b.k GROUP BY a.g ORDER BY a.g"
PREFIX = struct.Struct("<4sHI")
VERSIONS = sorted(path.name.removesuffix(".tar.gz") for path in GOLDEN.glob("*.tar.gz"))

Change = Callable[[dict[str, Any]], Mapping[str, Any]]


def rewritten(message: bytes, change: Change, version: int | None = None) -> bytes:
    """Return a signed message with another header."""
    magic, known, n_bytes = PREFIX.unpack_from(message)
    start = PREFIX.size + n_bytes
    header = json.dumps(change(json.loads(message[PREFIX.size : start]))).encode()
    content = PREFIX.pack(magic, version or known, len(header)) + header + message[start:-32]
    return content + hmac.digest(SECRET.encode(), content, "sha256")


def without(*names: str) -> Change:
    return lambda header: {name: value for name, value in header.items() if name not in names}


def plus(**more: Any) -> Change:
    return lambda header: {**header, **more}


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


async def between(lake: Lake, *, tasks: Change | None = None, replies: Change | None = None, **versions: int) -> None:
    """Have all messages between the lake's coordinator and its workers rewritten."""
    coordinator = lake.engine._fan_out
    assert coordinator is not None
    invoker = await coordinator.invoker()
    if isinstance(invoker, FaultyInvoker):
        invoker = invoker.inner

    async def before(_number: int, message: bytes) -> bytes:
        return message if tasks is None else rewritten(message, tasks, versions.get("task_version"))

    async def after(_number: int, message: bytes) -> bytes:
        return message if replies is None else rewritten(message, replies, versions.get("reply_version"))

    coordinator._invoker = FaultyInvoker(invoker, before, after)


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


@pytest.mark.parametrize(
    ("tasks", "versions", "said"),
    [
        (plus(colour="red", must=["colour"]), {}, "deploy workers before coordinators"),
        (plus(), {"task_version": 2}, "deploy workers before coordinators"),
        (plus(engine="datafusion 999"), {}, "datafusion 999"),
        (plus(kind="hologram"), {}, "no such kind of task"),
    ],
    ids=["a field that it must know", "a version that it does not read", "another engine", "another kind of task"],
)
async def test_a_worker_that_is_too_old_says_so_and_gives_no_rows(
    lake: Lake, tasks: Change, versions: Mapping[str, int], said: str
) -> None:
    await between(lake, tasks=tasks, **versions)
    with pytest.raises(FirnlineError, match=said) as caught:
        await ask(lake)
    assert not isinstance(caught.value, CorruptError)


async def test_a_reply_of_a_version_that_is_not_read_is_no_answer(lake: Lake) -> None:
    await between(lake, replies=plus(), reply_version=2)
    with pytest.raises(CorruptError, match="version=2"):
        await ask(lake)


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
        assert await lake.value("SELECT count(*) FROM t") == 2


async def test_a_catalog_entry_of_a_newer_form_is_refused_in_words(tmp_path: Path) -> None:
    async with open_lake(tmp_path) as lake:
        await lake.table("CREATE TABLE t (k BIGINT) USING delta")
        found = await lake.engine.kv.get("table/default/t")
        assert found is not None
        put = Put(found.key, json.dumps(json.loads(found.value) | {"v": 9}).encode())
        assert (await lake.engine.kv.txn({found.key: found.revision}, [put])).succeeded
        with pytest.raises(CorruptError, match="a newer Firnline wrote this catalog entry; upgrade"):
            await lake.value("SELECT count(*) FROM t")
