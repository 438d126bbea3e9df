"""Queries over tables whose newest rows are in the log only."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pyarrow as pa
import pytest

import service.components
from catalog.kv.memory import MemoryKV
from service.statement import Limits, Receipt, Statement
from storage.clock import SystemClock
from storage.errors import ForbiddenError, LimitError, NotFoundError, UnavailableError
from tests.support.kv_faults import WrappedKV
from tests.support.lakes import Lake, open_lake
from tests.support.managed import append, delete, fold, make_table

pytestmark = pytest.mark.anyio

PLAIN = pa.schema([pa.field("k", pa.int64(), False), pa.field("v", pa.string())])
FORMATS = ["delta", "iceberg"]


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake", create=True) as opened:
        yield opened


@pytest.mark.parametrize("format_", FORMATS)
async def test_an_appended_row_is_in_the_next_answer_and_once_after_its_fold(lake: Lake, format_: str) -> None:
    entry = await make_table(lake, "t", PLAIN, format_)
    assert await lake.rows("SELECT * FROM t") == []
    assert lake.receipt.log == {"default.t": 0}
    for number in range(3):
        await append(lake, entry, {"k": [number, number], "v": ["a", None]})
        assert await lake.value("SELECT count(*) FROM t") == 2 * (number + 1)
        if number == 1:
            await fold(lake)
            assert await lake.value("SELECT count(*) FROM t") == 4
            assert lake.receipt.tail_rows == 0
    assert await lake.rows("SELECT k, count(v) FROM t GROUP BY k ORDER BY k") == [(0, 1), (1, 1), (2, 1)]
    assert (lake.receipt.tail_rows, lake.receipt.log) == (2, {"default.t": 3})


@pytest.mark.parametrize("format_", FORMATS)
async def test_keys_looked_up_in_a_quiet_log_are_as_another_process_wrote_them_last(lake: Lake, format_: str) -> None:
    entry = await make_table(lake, "t", PLAIN, format_, key=["k"])
    async with open_lake(lake.folder) as reader:
        for number in range(4):
            await append(lake, entry, {"k": [1, 2 + number], "v": [f"{number}", "x"]})
            assert await reader.rows("SELECT v FROM t WHERE k = 1") == [(f"{number}",)]
            if number == 2:
                await fold(lake)
                await lake.rows("OPTIMIZE t")
            for log in lake.engine.logs.all().values():  # type: ignore[attr-defined]
                await log.release()
            for _ in range(3):
                assert await reader.rows("SELECT v FROM t WHERE k = 1") == [(f"{number}",)]
            assert "lookup" in reader.receipt.routes.get("default.t", "") or number < 2
            assert await reader.rows("SELECT v FROM t WHERE k = 7") == []


@pytest.mark.parametrize("format_", FORMATS)
async def test_the_last_writer_of_a_key_wins_over_the_table(lake: Lake, format_: str) -> None:
    entry = await make_table(lake, "t", PLAIN, format_, key=["k"])
    await append(lake, entry, {"k": [1, 2, 3], "v": ["a", "b", "c"]})
    await fold(lake)
    await append(lake, entry, {"k": [2, 4], "v": ["bb", "d"]})
    await delete(lake, entry, {"k": [1, 9]})
    assert await lake.rows("SELECT * FROM t ORDER BY k") == [(2, "bb"), (3, "c"), (4, "d")]
    assert await lake.rows("SELECT v FROM t WHERE k = 2") == [("bb",)]
    assert await lake.rows("SELECT v FROM t WHERE v = 'b'") == []
    assert await lake.rows("SELECT a.k FROM t a JOIN t b ON a.k = b.k + 1 ORDER BY 1") == [(3,), (4,)]
    await fold(lake)
    assert await lake.rows("SELECT * FROM t ORDER BY k") == [(2, "bb"), (3, "c"), (4, "d")]
    assert lake.receipt.tail_rows == 0
    await delete(lake, entry, {"k": [2, 3, 4]})
    assert await lake.rows("SELECT * FROM t") == []


async def test_keys_of_several_columns_and_of_doubles_meet(lake: Lake) -> None:
    schema = pa.schema(
        [pa.field("a", pa.float64(), False), pa.field("b", pa.timestamp("us"), False), pa.field("n", pa.int32())]
    )
    entry = await make_table(lake, "t", schema, key=["a", "b"])
    day = dt.datetime(2026, 1, 1)
    await append(lake, entry, {"a": [0.0, -0.0, 1.5], "b": [day, day + dt.timedelta(1), day], "n": [1, 2, 3]})
    await fold(lake)
    await append(lake, entry, {"a": [-0.0, 0.0], "b": [day, day + dt.timedelta(1)], "n": [10, 20]})
    assert await lake.rows("SELECT n FROM t ORDER BY n") == [(3,), (10,), (20,)]


@pytest.mark.parametrize("format_", FORMATS)
async def test_an_earlier_version_has_no_tail(lake: Lake, format_: str) -> None:
    entry = await make_table(lake, "t", PLAIN, format_)
    await append(lake, entry, {"k": [1], "v": ["a"]})
    await fold(lake)
    await append(lake, entry, {"k": [2], "v": ["b"]})
    assert await lake.value("SELECT count(*) FROM t") == 2
    version = lake.receipt.snapshots["default.t"]
    assert await lake.value(f"SELECT count(*) FROM t FOR VERSION AS OF {version}") == 1
    assert lake.receipt.log == {}


async def test_files_are_pruned_and_filters_pushed_down_under_a_tail(lake: Lake) -> None:
    entry = await make_table(lake, "t", PLAIN, key=["k"])
    for start in (0, 100, 200):
        await append(lake, entry, {"k": list(range(start, start + 100)), "v": ["x"] * 100})
        await fold(lake)
    await append(lake, entry, {"k": [150, 500], "v": ["y", "y"]})
    assert await lake.rows("SELECT k, v FROM t WHERE k BETWEEN 149 AND 151 ORDER BY k") == [
        (149, "x"), (150, "y"), (151, "x"),
    ]  # fmt: skip
    assert (lake.receipt.files_scanned, lake.receipt.files_pruned) == (1, 2)
    plan = dict(await lake.rows("EXPLAIN SELECT v FROM t WHERE k = 150"))
    assert "files=1 of 3 (2 pruned)" in plan["tables"]
    assert "log=[3, 4) rows=2 keys=2" in plan["tables"]
    assert "pruning_predicate=k_null_count" in plan["physical_plan"]
    assert "Anti" in plan["physical_plan"]


@pytest.mark.parametrize("format_", FORMATS)
async def test_only_files_that_may_hold_a_key_of_the_tail_are_joined_with_it(lake: Lake, format_: str) -> None:
    entry = await make_table(lake, "t", PLAIN, format_, key=["k"])
    for start in (0, 100):
        await append(lake, entry, {"k": list(range(start, start + 100)), "v": ["x"] * 100})
        await fold(lake)
    await append(lake, entry, {"k": [200, 201], "v": ["new", "new"]})
    assert "Anti" not in dict(await lake.rows("EXPLAIN SELECT * FROM t"))["physical_plan"]
    assert await lake.value("SELECT count(*) FROM t") == 202
    await append(lake, entry, {"k": [150], "v": ["changed"]})
    plan = dict(await lake.rows("EXPLAIN SELECT * FROM t"))
    assert plan["physical_plan"].count("Anti") == 1
    assert "files=2 of 2" in plan["tables"]
    assert await lake.rows("SELECT v, count(*) FROM t GROUP BY v ORDER BY v") == [
        ("changed", 1), ("new", 2), ("x", 199),
    ]  # fmt: skip
    assert "Anti" not in dict(await lake.rows("EXPLAIN SELECT * FROM t WHERE k < 100"))["physical_plan"]


async def test_a_table_without_a_tail_is_planned_as_its_files_alone(lake: Lake) -> None:
    entry = await make_table(lake, "t", PLAIN)
    await append(lake, entry, {"k": [1], "v": ["a"]})
    await fold(lake)
    plan = dict(await lake.rows("EXPLAIN SELECT v FROM t"))
    assert "log=nothing new before 1" in plan["tables"]
    assert "Union" not in plan["physical_plan"]


async def test_bytes_of_the_tail_count_as_scanned(lake: Lake) -> None:
    entry = await make_table(lake, "t", PLAIN)
    await append(lake, entry, {"k": [1], "v": ["x" * 10_000]})
    with pytest.raises(LimitError, match="scan more than its limit"):
        await lake.table("SELECT * FROM t", limits=Limits(scan_bytes_max=5_000))


async def test_catalog_statements_do_not_read_the_log(lake: Lake) -> None:
    entry = await make_table(lake, "t", PLAIN)
    await append(lake, entry, {"k": [1], "v": ["a"]})
    assert [row[0] for row in await lake.rows("DESCRIBE t")] == ["k", "v"]
    assert lake.receipt.log == {}
    listed = await lake.rows("SELECT column_name FROM information_schema.columns WHERE table_name = 't'")
    assert listed == [("k",), ("v",)]


async def test_answers_stay_right_while_rows_are_appended_and_folded(lake: Lake) -> None:
    plain = await make_table(lake, "plain", PLAIN)
    keyed = await make_table(lake, "keyed", PLAIN, "iceberg", key=["k"])
    done = 0
    stop = asyncio.Event()

    async def write() -> None:
        nonlocal done
        for number in range(30):
            await append(lake, plain, {"k": [number], "v": ["p"]})
            await append(lake, keyed, {"k": [number % 5], "v": [f"{number:03}"]})
            done = number + 1
        stop.set()

    async def folds() -> None:
        while not stop.is_set():
            await fold(lake)

    async def read(other: Lake) -> None:
        while not stop.is_set():
            before = done
            n = await other.value("SELECT count(*) FROM plain")
            assert before <= n <= done + 1
            before = done
            rows = await other.rows("SELECT k, max(v), count(*) FROM keyed GROUP BY k")
            assert len(rows) <= 5
            assert all(row[2] == 1 for row in rows)
            assert not before or max(row[1] for row in rows) >= f"{before - 1:03}"

    async with open_lake(lake.folder) as other:
        await asyncio.gather(write(), folds(), read(lake), read(other))
        for each in (lake, other):
            assert await each.rows("SELECT count(*), count(DISTINCT k) FROM plain") == [(30, 30)]
            assert await each.value("SELECT string_agg(v, ',' ORDER BY v) FROM keyed") == "025,026,027,028,029"


async def test_a_query_for_a_write_tells_what_it_read(lake: Lake) -> None:
    entry = await make_table(lake, "t", PLAIN, key=["k"])
    await append(lake, entry, {"k": [1, 2], "v": ["a", "b"]})
    receipt = Receipt()
    query = await lake.engine.query(
        "SELECT s.k, t.v FROM _rows s LEFT JOIN t ON s.k = t.k ORDER BY 1", None, Statement("…", "s"), receipt,
        {"_rows": pa.table({"k": [2, 7]})},
    )  # fmt: skip
    rows = pa.Table.from_batches([batch async for batch in query.batches], query.schema)
    assert rows.to_pydict() == {"k": [2, 7], "v": ["b", None]}
    ((name, since),) = query.since.items()
    assert (name, since[1]) == (("default", "t"), 1)
    assert query.snapshots[name].version == 0
    assert receipt.tail_rows == 2
    assert receipt.rows == 0
    empty = await lake.engine.query(
        "SELECT * FROM _rows", None, Statement("…", "s"), receipt, {"_rows": pa.table({"k": pa.array([], pa.int64())})}
    )
    assert [batch async for batch in empty.batches] == []


async def test_the_catalog_route_tells_what_the_log_holds(lake: Lake) -> None:
    from service.catalog_view import EngineCatalog

    entry = await make_table(lake, "t", PLAIN, key=["k"])
    await append(lake, entry, {"k": [1, 2], "v": ["a", "b"]})
    found = await EngineCatalog(lake.engine).describe_table("default", "t")
    assert found["primary_key"] == ["k"]
    assert found["log"] | {"unfolded_bytes": 0} == {
        "shard": 0, "watermark": 0, "start": 0, "limit": 1, "unfolded_rows": 2, "unfolded_keys": 2, "unfolded_bytes": 0,
    }  # fmt: skip
    with pytest.raises(NotFoundError):
        await EngineCatalog(lake.engine).describe_table("default", "nothing")


class AwayKV(WrappedKV):
    """A catalog that answers nothing while ``away``."""

    away = False

    async def _before(self, call: str, key: str) -> None:
        if self.away:
            raise UnavailableError("the catalog does not answer", call=call, key=key)


async def test_tables_that_are_known_are_read_while_the_catalog_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv = AwayKV(MemoryKV(SystemClock()))

    async def open_catalog(*_args: object) -> AwayKV:
        return kv

    monkeypatch.setattr(service.components, "open_catalog", open_catalog)
    async with open_lake(tmp_path / "lake", create=True) as lake:
        kv.away = True
        with pytest.raises(UnavailableError, match="does not answer"):
            await lake.rows("SELECT * FROM t")
        kv.away = False
        entry = await make_table(lake, "t", PLAIN, key=["k"])
        await append(lake, entry, {"k": [1], "v": ["a"]})
        assert await lake.rows("SELECT * FROM t") == [(1, "a")]
        assert not lake.receipt.catalog_stale
        kv.away = True
        assert await lake.rows("SELECT * FROM t") == [(1, "a")]
        assert lake.receipt.catalog_stale
        with pytest.raises(UnavailableError, match="does not know the table"):
            await lake.rows("SELECT * FROM u")
        with pytest.raises(UnavailableError):
            await lake.rows("CREATE SCHEMA sales")
        kv.away = False
        assert await lake.rows("SELECT * FROM t") == [(1, "a")]
        assert not lake.receipt.catalog_stale


async def test_a_reader_may_not_write(lake: Lake) -> None:
    await make_table(lake, "t", PLAIN)
    with pytest.raises(ForbiddenError, match="a reader may not write"):
        await lake.table("INSERT INTO t VALUES (1, 'a')", role="reader")


@pytest.mark.parametrize("format_", FORMATS)
async def test_a_table_whose_files_are_gone_is_said_to_be_missing(lake: Lake, format_: str) -> None:
    entry = await make_table(lake, "t", PLAIN, format_)
    shutil.rmtree(entry.location.removeprefix("file://"))
    with pytest.raises(NotFoundError, match="table="):
        await lake.rows("SELECT * FROM t")


async def test_types_of_nested_columns_are_shown_without_field_ids(tmp_path: Path) -> None:
    columns = "s STRUCT<x: INT, y: TEXT[]>, m MAP<TEXT, INT>, l STRUCT<a: INT>[]"
    async with open_lake(tmp_path / "lake") as lake:
        await lake.rows(f"CREATE TABLE n ({columns}) USING iceberg")
        for sql in ("INSERT INTO n VALUES (struct(1, ['a']), NULL, NULL)", "OPTIMIZE n"):
            await lake.rows(sql)
            told = [
                await lake.rows("DESCRIBE n"),
                await lake.rows("DESCRIBE SELECT * FROM n"),
                await lake.rows("SELECT data_type FROM information_schema.columns WHERE table_name = 'n'"),
                (await lake.table("SELECT * FROM n")).schema.to_string(),
            ]
            assert [each for each in told if "field_id" in str(each)] == []
        answer = await lake.table("SELECT * FROM n")
        assert answer.column("s").to_pylist() == [{"x": 1, "y": ["a"]}]
