"""Files that are merged on read run as tasks of workers, and give the rows that they give in one process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from service.coordinate.choose import MERGE_TASK_BYTES, tasks_to_merge
from service.settings import FunctionAccess
from storage.errors import FirnlineError, InvalidError
from tests.service.coordinate.test_fan_out import ask
from tests.support.faulty_invoker import FaultyInvoker
from tests.support.lakes import Lake, open_lake
from tests.support.managed import append, delete, fold, make_table
from tests.support.merged_tables import SCHEMA, some_rows, write_delta, write_iceberg, write_parquet
from tests.support.processes import children
from tests.support.stage_run import assert_same

pytestmark = pytest.mark.anyio

STATEMENTS = [
    "SELECT * FROM t",
    "SELECT count(*) FROM t",
    "SELECT count(*), min(k), max(g), sum(d) FROM t",
    "SELECT g, count(*), sum(d), max(t) FROM t WHERE k > 2 GROUP BY g",
    "SELECT k, x FROM t WHERE x > 1 OR x IS NULL",
    "SELECT 1 AS one FROM t WHERE g = 'g1'",
    "SELECT a.k, b.d FROM t a JOIN t b ON a.k = b.k AND a.g = b.g WHERE a.d > 90 AND b.d > 90",
    "SELECT count(*) FROM t a LEFT JOIN u b ON a.k = b.k",
    "SELECT k FROM t WHERE g NOT IN (SELECT g FROM u WHERE g IS NOT NULL AND k < 2)",
    "SELECT k, d FROM t WHERE d > (SELECT avg(d) FROM u) ORDER BY d DESC, k LIMIT 7",
    "SELECT count(*) FROM (SELECT * FROM t LIMIT 5)",
    "SELECT g, d FROM t UNION ALL SELECT g, d FROM u",
    "SELECT * FROM (SELECT g, row_number() OVER (PARTITION BY g ORDER BY d, k, t) AS n FROM t) WHERE n <= 2",
]


def _deleted(chance: np.random.Generator, rows: pa.Table) -> list[int]:
    share = chance.choice([0.0, 0.1, 0.6, 1.0])
    return [int(each) for each in np.flatnonzero(chance.random(rows.num_rows) < share)]


async def _table(lake: Lake, name: str, form: str, chance: np.random.Generator, n_files: int) -> None:
    files = [some_rows(chance, int(chance.integers(1, 120))) for _ in range(n_files)]
    given = [(each, _deleted(chance, each)) for each in files]
    folder, format_ = lake.folder / name, form.partition("-")[0]
    if form == "delta":
        location = write_delta(folder, given)
    elif form == "delta-partitioned":
        location = write_delta(folder, given, partition="k")
    elif form == "parquet":
        location = write_parquet(folder, given)
    else:
        keys = some_rows(chance, 3)
        location = write_iceberg(folder, given, keys, version=int(form[-1]))
    await lake.table(f"CREATE EXTERNAL TABLE {name} STORED AS {format_} LOCATION '{location}'")


async def _tasks_of(lake: Lake, sql: str, n_tasks: int = 2) -> str:
    plan, _ = await ask(lake, f"EXPLAIN {sql}", max_tasks=n_tasks)
    return str(dict(zip(plan.column(0).to_pylist(), plan.column(1).to_pylist(), strict=True))["tasks"])


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path, functions=FunctionAccess(place="inline")) as opened:
        yield opened


@pytest.mark.parametrize("form", ["delta", "delta-partitioned", "iceberg-2", "iceberg-3", "parquet"])
@pytest.mark.parametrize("seed", range(3))
async def test_random_tables_give_the_rows_of_one_process(lake: Lake, form: str, seed: int) -> None:
    chance = np.random.default_rng(seed)
    await _table(lake, "t", form, chance, n_files=int(chance.integers(1, 7)))
    await _table(lake, "u", form, chance, n_files=2)
    for number, sql in enumerate(STATEMENTS):
        wanted, alone = await ask(lake, sql, functions="inline")
        assert alone.slow_files
        n_tasks = 1 + (number + seed) % 3
        got, receipt = await ask(lake, sql, max_tasks=n_tasks)
        assert_same(got, wanted, ordered="ORDER BY d DESC" in sql)
        assert receipt.bytes_scanned > 0, sql
        shown = await _tasks_of(lake, sql, n_tasks)
        assert "merges on read" in shown, shown
    assert not list(lake.folder.glob("_firnline/results/*/*"))


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Lake]:
    """A lake whose tasks run in two processes, with a Delta table of 6 files, 4 of which have deleted rows."""
    async with open_lake(tmp_path, functions=FunctionAccess(place="processes:2")) as opened:
        chance = np.random.default_rng(5)
        files = [some_rows(chance, 100) for _ in range(6)]
        given = [(each, range(0, 100, 1 + number) if number > 1 else []) for number, each in enumerate(files)]
        location = write_delta(opened.folder / "t", given)
        await opened.table(f"CREATE EXTERNAL TABLE t STORED AS delta LOCATION '{location}'")
        yield opened
        assert not list(opened.folder.glob("_firnline/results/*/*"))


def _scratch() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("firn-scratch-*/*.arrow"))


async def _faulty(lake: Lake, **faults: Any) -> FaultyInvoker:
    coordinator = lake.engine._fan_out
    assert coordinator is not None
    coordinator._invoker = FaultyInvoker(await coordinator.invoker(), **faults)
    return coordinator._invoker


async def test_a_worker_killed_while_it_merges_is_replaced(pool: Lake) -> None:
    sql = "SELECT k, count(*), sum(d) FROM t GROUP BY k"
    wanted, _ = await ask(pool, sql, functions="inline")
    before, old = set(children()), _scratch()
    await ask(pool, sql)
    killed = 0

    async def kill(number: int, message: bytes) -> bytes:
        nonlocal killed
        if number < 2:
            workers = sorted(set(children()) - before)
            asyncio.get_running_loop().call_later(0.003, os.kill, workers[number % len(workers)], signal.SIGKILL)
            killed += 1
        return message

    await _faulty(pool, before=kill)
    got, receipt = await ask(pool, sql)
    assert_same(got, wanted)
    assert killed == 2
    assert receipt.slow_files == 4
    # What a killed worker leaves is gone with a later one's first file, once it is a minute old.
    assert len(_scratch() - old) <= 2


@pytest.mark.parametrize(
    ("file", "how"),
    [("3.parquet", "missing"), ("3.parquet", "damaged"), ("2.parquet", "cut short"), ("deletion_vector_", "missing")],
)
async def test_files_that_are_missing_or_damaged_are_the_error_of_one_process(pool: Lake, file: str, how: str) -> None:
    [path] = [each for each in (pool.folder / "t").iterdir() if each.name.startswith(file)][:1]
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if how == "cut short" else b"PAR1" + bytes(len(data) - 4))
    errors = []
    for functions in ("inline", "fan-out"):
        with pytest.raises(FirnlineError) as caught:
            await ask(pool, "SELECT sum(d), max(g) FROM t", functions=functions)
        errors.append(caught.value)
    alone, tasks = errors
    assert path.name in str(alone)
    assert path.name in str(tasks)
    assert type(tasks) is type(alone)


async def test_a_worker_of_a_release_that_merges_nothing_refuses_and_the_statement_runs_in_this_process(
    pool: Lake,
) -> None:
    from functions import signed, tasks

    sql = "SELECT k, count(*) FROM t GROUP BY k"
    wanted, _ = await ask(pool, sql, functions="inline")
    coordinator = pool.engine._fan_out
    assert coordinator is not None
    older, refused = tasks._TASK_FIELDS - {"merge"}, []

    async def refuse(_number: int, message: bytes) -> bytes:
        try:
            signed.open_message(b"FNTK", message, coordinator._options.secret, older)
        except InvalidError as error:
            refused.append(error)
            raise
        return message

    await _faulty(pool, before=refuse)
    got, receipt = await ask(pool, sql)
    assert refused[0].facts["differs"] == "fields"
    assert refused[0].facts["fields"] == "merge"
    assert receipt.workers_differ
    assert_same(got, wanted)


async def test_a_limit_reads_no_more_rows_than_it_takes(lake: Lake) -> None:
    chance = np.random.default_rng(3)
    files = [(some_rows(chance, 2_000), [7]) for _ in range(8)]
    location = write_delta(lake.folder / "t", files)
    await lake.table(f"CREATE EXTERNAL TABLE t STORED AS delta LOCATION '{location}'")
    await ask(lake, "SELECT count(*) FROM t")
    some, few = await ask(lake, "SELECT * FROM t LIMIT 10", max_tasks=2)
    every, all_ = await ask(lake, "SELECT * FROM t WHERE d > -1000 LIMIT 1000000", max_tasks=2)
    assert some.num_rows == 10
    assert every.num_rows == 8 * 1_999
    assert few.bytes_scanned < all_.bytes_scanned / 2


async def test_many_deleted_rows_travel_as_pages_and_these_are_deleted(pool: Lake) -> None:
    chance = np.random.default_rng(4)
    rows = pa.table({name: pa.nulls(400_000, field.type) for name, field in zip(SCHEMA.names, SCHEMA, strict=True)})
    deleted = [np.flatnonzero(chance.random(400_000) < 0.4).tolist() for _ in range(4)]
    location = write_delta(pool.folder / "many", [(rows, each) for each in deleted])
    await pool.table(f"CREATE EXTERNAL TABLE many STORED AS delta LOCATION '{location}'")
    stored = 0

    async def look(_number: int, message: bytes) -> bytes:
        nonlocal stored
        stored += len(list(pool.folder.glob("_firnline/results/*/*.arrow")))
        return message

    invoker = await _faulty(pool, before=look)
    invoker.limits = replace(invoker.limits, message_bytes=100_000)
    got, _ = await ask(pool, "SELECT count(*) FROM many")
    assert got.column(0).to_pylist() == [4 * 400_000 - sum(map(len, deleted))]
    assert stored


async def test_earlier_versions_and_tables_without_files_are_read_too(lake: Lake) -> None:
    chance = np.random.default_rng(6)
    first, second = some_rows(chance, 50), some_rows(chance, 50)
    folder = lake.folder / "t"
    write_delta(folder, [(first, [1, 2, 3]), (second, [4])])
    (folder / "_delta_log" / f"{1:020}.json").write_text(
        json.dumps({"remove": {"path": "0.parquet", "deletionTimestamp": 1, "dataChange": True}}) + "\n"
    )
    (lake.folder / "none").mkdir()
    write_delta(lake.folder / "none" / "t", [])
    await lake.table(f"CREATE EXTERNAL TABLE t STORED AS delta LOCATION '{folder}'")
    await lake.table(f"CREATE EXTERNAL TABLE none STORED AS delta LOCATION '{lake.folder}/none/t'")
    for sql in (
        "SELECT count(*) FROM t", "SELECT count(*) FROM t VERSION AS OF 0", "SELECT count(*) FROM none",
        "SELECT a.k FROM t VERSION AS OF 0 a LEFT JOIN t b USING (k)", "SELECT t.k FROM t LEFT JOIN none USING (k)",
        "SELECT k FROM none UNION ALL SELECT k FROM t",
    ):  # fmt: skip
        wanted, _ = await ask(lake, sql, functions="inline")
        got, _ = await ask(lake, sql)
        assert_same(got, wanted)
    assert (await ask(lake, "SELECT count(*) FROM t VERSION AS OF 0"))[0].column(0).to_pylist() == [96]


async def test_what_cannot_be_cut_is_one_task_and_says_why(lake: Lake) -> None:
    await _table(lake, "t", "iceberg-2", np.random.default_rng(1), 4)
    sql = "SELECT count(*) FROM t WHERE random() >= 0"
    shown = await _tasks_of(lake, sql)
    assert "query tasks=1" in shown
    assert "one task: random()" in shown
    wanted, _ = await ask(lake, sql, functions="inline")
    got, receipt = await ask(lake, sql)
    assert_same(got, wanted)
    assert receipt.tasks == 2


async def test_a_small_side_that_is_merged_is_broadcast(lake: Lake) -> None:
    chance = np.random.default_rng(8)
    lake.write("facts/0.parquet", pa.table({"k": chance.integers(0, 10, 3_000_000), "v": np.arange(3_000_000)}))
    await lake.table(f"CREATE EXTERNAL TABLE facts STORED AS parquet LOCATION '{lake.folder}/facts'")
    location = write_delta(lake.folder / "u", [(some_rows(chance, 20), [1])])
    await lake.table(f"CREATE EXTERNAL TABLE u STORED AS delta LOCATION '{location}'")
    shown = await _tasks_of(lake, "SELECT count(*) FROM facts JOIN u USING (k)")
    assert "hash into" not in shown, shown


@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_rows_of_the_log_and_look_ups_stand_beside_files_that_are_merged(tmp_path: Path, format_: str) -> None:
    fields = [pa.field("k", pa.int64(), False), ("v", pa.string()), ("g", pa.int32()), ("x", pa.float64())]
    async with open_lake(tmp_path / "lake", create=True, functions=FunctionAccess(place="inline")) as lake:
        entry = await make_table(lake, "t", pa.schema(fields), format_, key=["k"])

        async def put(keys: range, text: str) -> None:
            rows = [{"k": k, "v": f"{text}{k}", "g": k % 3, "x": (0.5, float("nan"))[k % 2]} for k in keys]
            await append(lake, entry, {name: [row[name] for row in rows] for name in ("k", "v", "g", "x")})

        await put(range(200), "a")
        await fold(lake)
        await lake.table("CREATE INDEX i ON t (k) USING locator")
        await put(range(150, 300), "b")
        await delete(lake, entry, {"k": [3, 151]})
        await fold(lake)
        await put(range(290, 310), "c")
        await delete(lake, entry, {"k": [4, 152, 295]})
        n_slow = 0
        for sql in (
            "SELECT g, count(*), min(v), max(v) FROM t GROUP BY g",
            "SELECT count(*) FROM t",
            "SELECT * FROM t WHERE g = 1",
            "SELECT v, x FROM t WHERE k IN (2, 3, 4, 170, 295, 299, 305)",
            "SELECT count(*) FROM t a JOIN t b ON a.k = b.k + 1",
        ):
            wanted, alone = await ask(lake, sql, functions="inline")
            got, receipt = await ask(lake, sql)
            assert_same(got, wanted)
            assert receipt.tail_rows == alone.tail_rows > 0
            assert receipt.slow_files == alone.slow_files
            n_slow += receipt.slow_files
        assert (await ask(lake, "SELECT count(*) FROM t"))[0].column(0).to_pylist() == [305]
        assert n_slow
        assert "merges on read" in await _tasks_of(lake, "SELECT count(*) FROM t")


def test_a_task_merges_no_more_than_its_disk_holds() -> None:
    assert tasks_to_merge(2, 10) == 2
    assert tasks_to_merge(2, 100 * MERGE_TASK_BYTES) == 100
    assert tasks_to_merge(2, 10**15) == 1000
