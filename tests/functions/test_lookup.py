"""Rows by their keys: the same rows as a scan's, whatever happened to the table, to its files or to its indexes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.indexes import IndexKind
from functions.index.keep import keep_indexes
from functions.lookup import Memory
from service.compaction import indexing_of
from service.executor import InlineExecutor
from service.statement import KeyLookup, Limits, Receipt, Route, Statement
from storage.errors import InvalidError, LimitError
from storage.tables.snapshot import Deletes, LoadedDeletes
from tests.support.indexed import add_index, refresh_indexes
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio

N = 40_000
ROUTES: tuple[Route, ...] = ("scan", "auto", "lookup")
KINDS: tuple[IndexKind, ...] = ("learned", "locator")


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake") as opened:
        yield opened


async def run(
    lake: Lake, sql: str, route: Route = "auto", params: Sequence[Any] | None = None
) -> tuple[list[tuple[Any, ...]], Receipt]:
    """Return the rows in order, and the receipt."""
    statement = Statement(sql, "s", params, route=route)
    result = await InlineExecutor(lake.engine, lake.engine.clock).run(statement)
    table = pa.Table.from_batches([batch async for batch in result.batches], result.schema)
    return sorted(zip(*[column.to_pylist() for column in table.columns], strict=True), key=repr), result.receipt


async def same(lake: Lake, *statements: str, looked_up: bool | None = True) -> None:
    """Assert that each statement has the same rows by every route, and that an index was used, or was not."""
    for sql in statements:
        scanned, receipt = await run(lake, sql, "scan")
        assert all(route.startswith("scan") for route in receipt.routes.values())
        found, receipt = await run(lake, sql)
        assert found == scanned, sql
        if looked_up is None:
            continue
        if looked_up:
            forced, receipt = await run(lake, sql, "lookup")
            assert forced == scanned, sql
        used = any(route.startswith("lookup") for route in receipt.routes.values())
        assert used == looked_up, (sql, receipt.routes)


async def make(lake: Lake, format_: str = "delta", *, key: bool = True, more: str = "") -> None:
    primary = ", PRIMARY KEY (id)" if key else ""
    more = more or ("" if key else "ORDER BY (id)")
    await lake.table(
        f"CREATE TABLE t (id BIGINT NOT NULL, u BIGINT, s TEXT, v DOUBLE{primary}) USING {format_} {more} "
        "WITH ('firn.index_primary_key' = 'false')"
    )
    await add(lake, 0, N)


async def add(lake: Lake, start: int, limit: int) -> None:
    values = f"SELECT value * 2, (value * 7919) % {N}, 's' || (value % 1000), value / 4.0"
    await lake.table(f"INSERT INTO t {values} FROM generate_series({start}, {limit - 1})")
    await lake.table("OPTIMIZE t")


STATEMENTS = (
    "SELECT * FROM t WHERE id = 14",
    "SELECT s, id FROM t WHERE id = 14",
    "SELECT v FROM t WHERE id = 15",
    "SELECT * FROM t WHERE id IN (0, 2, 4, 79998, 80000, 3, -1)",
    "SELECT count(*), sum(u), max(s) FROM t WHERE id IN (0, 2, 4, 6, 8, 10)",
    "SELECT * FROM t WHERE id = 14 AND s = 's8'",
    "SELECT * FROM t WHERE id = 14 AND s = 's7' ORDER BY v LIMIT 1",
    "SELECT a.id, b.u FROM t AS a JOIN t AS b ON a.s = b.s WHERE a.id = 14 AND b.id IN (14, 2014)",
    "SELECT id FROM t WHERE id = 14 UNION ALL SELECT u FROM t WHERE id = 16",
    "SELECT * FROM t WHERE id = (SELECT 14)",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_a_lookup_finds_the_rows_of_a_scan(lake: Lake, format_: str, kind: IndexKind) -> None:
    await make(lake, format_)
    await add_index(lake, "t", ["id"], kind)
    await same(lake, *STATEMENTS[:-1])
    await same(lake, STATEMENTS[-1], looked_up=None)
    if kind == "learned":
        await same(lake, "SELECT * FROM t WHERE id BETWEEN 100 AND 140", "SELECT s FROM t WHERE id > 79990")


@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_rows_of_the_log_override_those_found_in_files(lake: Lake, format_: str) -> None:
    await make(lake, format_)
    await add_index(lake, "t", ["id"], "learned")
    await add_index(lake, "t", ["u"], "locator", "by_u")
    await lake.table("UPDATE t SET s = 'new' WHERE id = 14")
    await lake.table("DELETE FROM t WHERE id = 16")
    await lake.table("INSERT INTO t VALUES (1, 5, 'odd', 0.5)")
    await lake.table("UPDATE t SET u = -1 WHERE id = 0")
    for id_ in (14, 16, 1, 0, 18):
        await same(lake, f"SELECT * FROM t WHERE id = {id_}", f"SELECT count(*) FROM t WHERE id = {id_}")
    await same(lake, "SELECT * FROM t WHERE u = 5", "SELECT * FROM t WHERE u = -1", "SELECT * FROM t WHERE u = 0")
    await same(lake, "SELECT * FROM t WHERE id IN (0, 1, 14, 16, 18)", "SELECT id FROM t WHERE id BETWEEN 0 AND 20")
    await lake.table("OPTIMIZE t")
    await same(lake, "SELECT * FROM t WHERE id IN (0, 1, 14, 16, 18)", looked_up=None)
    await refresh_indexes(lake, "t")
    await same(lake, "SELECT * FROM t WHERE id IN (0, 1, 14, 16, 18)", "SELECT * FROM t WHERE u = -1")


async def test_files_that_are_not_covered_are_scanned(lake: Lake) -> None:
    await make(lake, key=False)
    await add_index(lake, "t", ["id"], "learned")
    await lake.table("INSERT INTO t VALUES (14, 1, 'again', 0.0), (15, 2, 'new', 0.0)")
    await same(lake, "SELECT * FROM t WHERE id = 14", "SELECT * FROM t WHERE id = 15")


async def test_an_update_by_key_of_a_table_without_one_rewrites_the_files_found(lake: Lake) -> None:
    await make(lake, key=False)
    await add_index(lake, "t", ["id"], "learned")
    await lake.table("UPDATE t SET s = 'new' WHERE id IN (14, 79998)")
    await lake.table("DELETE FROM t WHERE id = 16")
    rows, _receipt = await run(lake, "SELECT id, s FROM t WHERE s = 'new' OR id IN (16, 18)", "scan")
    assert rows == [(14, "new"), (18, "s9"), (79998, "new")]


@pytest.mark.parametrize("kind", KINDS)
async def test_earlier_versions_are_looked_up_too(lake: Lake, kind: IndexKind) -> None:
    await make(lake)
    await add_index(lake, "t", ["id"], kind)
    version = lake.receipt.snapshots.get("default.t") or await lake.value(
        "SELECT max(version) FROM (SELECT 1 AS version)"
    )
    await lake.table("UPDATE t SET s = 'new' WHERE id = 14")
    await lake.table("OPTIMIZE t")
    await same(lake, f"SELECT * FROM t FOR VERSION AS OF {version} WHERE id = 14", looked_up=None)


async def test_partition_columns_and_deleted_rows(lake: Lake) -> None:
    await lake.table("CREATE TABLE t (id BIGINT, p TEXT, v DOUBLE) PARTITIONED BY (p)")
    await lake.table("INSERT INTO t SELECT value, 'p' || (value % 3), value / 2.0 FROM generate_series(0, 29999)")
    await lake.table("OPTIMIZE t")
    await add_index(lake, "t", ["id"], "locator")
    await same(lake, "SELECT * FROM t WHERE id = 14", "SELECT p, v FROM t WHERE id IN (1, 2, 3) AND p = 'p1'")
    await same(lake, "SELECT p FROM t WHERE id = 14")
    await lake.table("DELETE FROM t WHERE id = 14")
    await same(lake, "SELECT * FROM t WHERE id IN (13, 14, 17)", looked_up=None)


@pytest.mark.parametrize("format_", ["delta", "iceberg"])
async def test_columns_that_are_renamed_dropped_or_retyped(lake: Lake, format_: str) -> None:
    await make(lake, format_, key=False)
    await add_index(lake, "t", ["id"], "learned")
    await lake.table("ALTER TABLE t ADD COLUMN w INT")
    await same(lake, "SELECT * FROM t WHERE id = 14", "SELECT w FROM t WHERE id = 14")
    if format_ == "iceberg":
        await lake.table("ALTER TABLE t RENAME COLUMN id TO ident")
        await lake.table("ALTER TABLE t RENAME COLUMN s TO id")
        await same(lake, "SELECT * FROM t WHERE ident = 14")
        await same(lake, "SELECT * FROM t WHERE id = 's7'", looked_up=False)


async def test_an_index_on_a_column_that_was_dropped_or_retyped_is_not_used(lake: Lake) -> None:
    await lake.table("CREATE TABLE t (id INT, v DOUBLE, w INT) USING iceberg")
    await lake.table("INSERT INTO t SELECT value, value / 2.0, value FROM generate_series(0, 9999)")
    await lake.table("OPTIMIZE t")
    await add_index(lake, "t", ["id"], "locator")
    await add_index(lake, "t", ["w"], "locator", "by_w")
    await same(lake, "SELECT * FROM t WHERE id = 14", "SELECT * FROM t WHERE w = 14")
    await lake.table("ALTER TABLE t ALTER COLUMN id TYPE BIGINT")
    await lake.table("ALTER TABLE t DROP COLUMN w")
    await lake.table("ALTER TABLE t ADD COLUMN w INT")
    await same(lake, "SELECT * FROM t WHERE id = 14", "SELECT * FROM t WHERE w = 14", looked_up=False)


async def test_external_files_that_are_replaced_are_scanned(lake: Lake) -> None:
    rows: dict[str, list[Any]] = {"id": list(range(20_000)), "s": [f"s{n}" for n in range(20_000)]}
    path = lake.write("x/a.parquet", rows, row_group_size=4_000)
    lake.write("x/b.parquet", {"id": [-1], "s": ["other"]})
    await lake.table(f"CREATE EXTERNAL TABLE x STORED AS parquet LOCATION '{lake.folder}/x/'")
    await add_index(lake, "x", ["id"], "learned")
    await same(lake, "SELECT * FROM x WHERE id = 77", "SELECT s FROM x WHERE id IN (3, 19999, -1, 20000)")
    rows["s"][77] = "S77"
    pq.write_table(pa.table(rows), path, row_group_size=4_000)
    await same(lake, "SELECT * FROM x WHERE id = 77", "SELECT s FROM x WHERE id IN (3, 77)", looked_up=None)
    found, _receipt = await run(lake, "SELECT s FROM x WHERE id = 77")
    assert found == [("S77",)]


async def test_of_an_external_table_only_the_file_that_was_replaced_is_indexed_anew(lake: Lake) -> None:
    for number, name in enumerate("abc"):
        lake.write(f"x/{name}.parquet", {"id": list(range(number * 1_000, number * 1_000 + 1_000))})
    await lake.table(f"CREATE EXTERNAL TABLE x STORED AS parquet LOCATION '{lake.folder}/x/'")
    await lake.table("CREATE INDEX by_id ON x (id) USING locator")
    lake.write("x/a.parquet", {"id": list(range(-1_000, 0))})
    engine = lake.engine
    parts = indexing_of(engine.stores, engine.kv, engine.clock, engine.lake)
    kept = await keep_indexes(parts, await engine.tables.all())
    done = kept.refreshed["default.x"]["by_id"]
    assert (done.n_built, done.n_removed, done.n_files) == (1, 0, 1)
    await same(lake, "SELECT * FROM x WHERE id = 77", "SELECT * FROM x WHERE id IN (-77, 2077)")
    assert not (await keep_indexes(parts, await engine.tables.all())).refreshed


async def test_ranges_of_the_first_column_find_rows_whose_other_columns_are_null(lake: Lake) -> None:
    await lake.table("CREATE TABLE w (id BIGINT NOT NULL, s TEXT, n BIGINT NOT NULL) ORDER BY (id, s)")
    await lake.table("INSERT INTO w SELECT value, CASE WHEN value % 5 > 0 THEN 's' END, value FROM range(30000)")
    await lake.table("OPTIMIZE w")
    await lake.table("CREATE INDEX by_both ON w (id, s) USING learned")
    statement = "SELECT count(*), count(s) FROM w WHERE id BETWEEN 100 AND 120"
    await same(lake, statement, looked_up=False)
    assert (await run(lake, statement))[0] == [(21, 16)]
    await same(lake, "SELECT * FROM w WHERE id = 101 AND s = 's'")
    await lake.table("CREATE INDEX by_id ON w (id, n) USING learned")
    await same(lake, statement)


async def test_lists_whose_combinations_no_number_counts_are_scanned_for(lake: Lake) -> None:
    names = "abcdefgh"
    await lake.table(f"CREATE TABLE w ({', '.join(f'{name} BIGINT' for name in names)})")
    await lake.table(f"INSERT INTO w VALUES ({', '.join('1' * len(names))})")
    await lake.table("OPTIMIZE w")
    await lake.table(f"CREATE INDEX by_all ON w ({', '.join(names)}) USING locator")
    listed = ", ".join(map(str, range(512)))
    found, receipt = await run(lake, f"SELECT a FROM w WHERE {' AND '.join(f'{name} IN ({listed})' for name in names)}")
    assert found == [(1,)]
    assert receipt.routes["default.w"].startswith("scan")


@pytest.mark.parametrize("by_key", [False, True])
async def test_a_look_up_obeys_the_limit_of_bytes(lake: Lake, by_key: bool) -> None:
    await make(lake)
    await add_index(lake, "t", ["id"], "learned")
    sql, lookup = ("", KeyLookup(("default", "t"), [14])) if by_key else ("SELECT * FROM t WHERE id = 14", None)
    few, many = (Statement(sql, "s", lookup=lookup, limits=Limits(scan_bytes_max=limit)) for limit in (100, 10**9))
    found = await lake.engine.point(many)
    assert found is not None
    assert [batch.num_rows async for batch in found.batches] == [1]
    assert await lake.engine.point(few) is None
    with pytest.raises(LimitError, match="would scan more than its limit"):
        await InlineExecutor(lake.engine, lake.engine.clock).run(few)


async def test_segments_that_are_missing_or_damaged_change_no_answer(lake: Lake) -> None:
    await make(lake)
    await add(lake, N, 3 * N)
    await add_index(lake, "t", ["id"], "learned")
    segments = [path for path in lake.folder.glob("_firnline/index/**/*") if path.is_file()]
    assert segments
    for each in segments:
        each.write_bytes(each.read_bytes()[:-7] + b"garbage")
    async with open_lake(lake.folder) as other:
        await same(other, "SELECT * FROM t WHERE id = 14", looked_up=False)
    for each in segments:
        each.unlink()
    async with open_lake(lake.folder) as other:
        await same(other, "SELECT * FROM t WHERE id = 14", looked_up=False)


async def test_a_key_of_several_columns(lake: Lake) -> None:
    await make(lake, more="ORDER BY (s, id)", key=False)
    await add_index(lake, "t", ["s", "id"], "learned")
    await same(
        lake, "SELECT * FROM t WHERE id = 14 AND s = 's7'", "SELECT * FROM t WHERE s = 's7' AND id IN (14, 2014)"
    )
    await same(lake, "SELECT id FROM t WHERE s = 's7'")


async def test_explain_says_the_route_and_reads_no_data(lake: Lake) -> None:
    await make(lake)
    await add_index(lake, "t", ["id"], "learned")
    found, receipt = await run(lake, "EXPLAIN SELECT * FROM t WHERE id = 14")
    text = str(found)
    assert "route=(lookup: costs" in text
    for fact in ("index=by_key", "kind=learned", "keys=1", "segments=1", "files_covered=1", "blocks=1", "reads="):
        assert fact in text
    assert receipt.bytes_scanned == 0
    found, _receipt = await run(lake, "EXPLAIN SELECT * FROM t WHERE s = 's1'")
    assert "route=(scan: by_key: nothing pins id)" in str(found)


async def test_a_forced_route_says_why_there_is_none(lake: Lake) -> None:
    await make(lake)
    with pytest.raises(InvalidError, match="has no index"):
        await run(lake, "SELECT * FROM t WHERE id = 14", "lookup")
    await add_index(lake, "t", ["id"], "learned")
    with pytest.raises(InvalidError, match="nothing pins id"):
        await run(lake, "SELECT * FROM t WHERE s = 's1'", "lookup")
    _found, receipt = await run(lake, "SELECT * FROM t WHERE id = 14", "scan")
    assert receipt.routes == {"default.t": "scan: asked for"}


async def test_many_keys_all_over_unsorted_files_are_scanned_for(lake: Lake) -> None:
    await make(lake)
    await add_index(lake, "t", ["u"], "locator")
    listed = ", ".join(map(str, range(0, N, 20)))
    scanned, _receipt = await run(lake, f"SELECT * FROM t WHERE u IN ({listed})", "scan")
    forced, receipt = await run(lake, f"SELECT * FROM t WHERE u IN ({listed})", "lookup")
    assert forced == scanned
    assert len(scanned) == N // 20
    assert receipt.routes["default.t"].startswith("lookup")


async def test_a_miss_reads_no_data(lake: Lake) -> None:
    await make(lake)
    await add_index(lake, "t", ["id"], "learned")
    _rows, receipt = await run(lake, "SELECT * FROM t WHERE id = 1_000_001".replace("_", ""))
    assert receipt.bytes_scanned == 0
    n_read = 0
    for id_ in range(1, 401, 2):
        _rows, receipt = await run(lake, f"SELECT * FROM t WHERE id = {id_}")
        n_read += receipt.bytes_scanned > 0
    assert n_read <= 6


async def test_every_route_answers_in_the_same_columns(lake: Lake) -> None:
    columns = "id BIGINT NOT NULL, a TEXT, b DECIMAL(10, 2), c TIMESTAMP, d STRUCT<x INT, y TEXT>, e BIGINT[]"
    await lake.table(f"CREATE TABLE n ({columns}, PRIMARY KEY (id))")
    await lake.table("INSERT INTO n VALUES (1, 'x', 1.5, TIMESTAMP '2026-01-01 00:00:00', NULL, [1, 2])")
    await lake.table("OPTIMIZE n")
    for selected in ("*", "e, id", "d, c"):
        for sql in (f"SELECT {selected} FROM n WHERE id = 1", f"SELECT {selected} FROM n AS q WHERE id = 1"):
            found = []
            for route in ROUTES:
                result = await lake.engine.run(Statement(sql, "s", route=route))
                batches = [batch async for batch in result.batches]
                assert all(batch.schema.equals(result.schema) for batch in batches)
                rows = pa.Table.from_batches(batches, result.schema).to_pylist()
                found.append((result.schema.names, result.schema.types, rows))
            assert found[0] == found[1] == found[2]


@dataclass(frozen=True)
class Gone(Deletes):
    """The first rows of a file."""

    file: int
    n_rows: int

    async def load(self, stores: object) -> LoadedDeletes:
        loads.append(self.file)
        return LoadedDeletes(np.arange(self.n_rows))


loads: list[int] = []


async def test_deleted_rows_are_remembered_up_to_a_number_of_bytes(lake: Lake) -> None:
    memory = Memory(deletes_bytes_max=8_000)
    loads.clear()
    for file in (0, 1, 0, 2, 0, 1):
        found = await memory.deletes(lake.engine.stores, Gone(file, 400))
        assert len(found.positions) == 400
    assert loads == [0, 1, 2, 1]
    assert len((await memory.deletes(lake.engine.stores, Gone(3, 5_000))).positions) == 5_000
