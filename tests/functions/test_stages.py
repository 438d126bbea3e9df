"""Statements that are easily cut wrongly give in stages what they give in one process."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion import SessionContext, udf

from functions.plan_proto import decode
from functions.stage_seal import engine
from functions.stages import Read, bind, pages_of, split
from functions.tasks import Page
from storage.errors import CorruptError, InvalidError, UnsupportedError
from tests.support.stage_run import assert_same, context_of, pieces, plan_of, run, run_in_processes

N_ROWS = 4000
PARTITIONED = {
    "datafusion.optimizer.hash_join_single_partition_threshold": "0",
    "datafusion.optimizer.hash_join_single_partition_threshold_rows": "0",
}


def _big() -> pa.Table:
    rows = range(N_ROWS)
    return pa.table({
        "k": pa.array([None if i % 17 == 0 else i % 400 for i in rows], pa.int64()),
        "g": pa.array([f"g{i % 7}" for i in rows]).dictionary_encode(),
        "x": pa.array([[math.nan, -0.0, 0.0, None, i / 3][i % 5] for i in rows], pa.float64()),
        "d": pa.array([Decimal(i * 37 % 1000) / 100 for i in rows], pa.decimal128(12, 2)),
        "l": pa.array([None if i % 11 == 0 else list(range(i % 4)) for i in rows], pa.list_(pa.int32())),
        "s": pa.array([{"a": i % 5, "b": str(i % 3)} for i in rows]),
        "t": pa.array([i * 1_000_000 for i in rows], pa.timestamp("us", "UTC")),
        "id": pa.array(list(rows), pa.int64()),
    })  # fmt: skip


def _small() -> pa.Table:
    return pa.table({
        "k": pa.array([None, 1, 2, 2, 3, 5, 399, 1000, None, 17], pa.int64()),
        "name": pa.array(list("abcdefghij")),
        "x": pa.array([0.0, -0.0, math.nan, None, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    })  # fmt: skip


def _write(folder: Path, name: str, rows: pa.Table, n_files: int) -> None:
    (folder / name).mkdir()
    step = max(1, math.ceil(len(rows) / n_files))
    for number in range(n_files):
        pq.write_table(rows.slice(number * step, step), folder / name / f"{number}.parquet", row_group_size=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("stages")
    _write(made, "big", _big(), 5)
    _write(made, "small", _small(), 3)
    _write(made, "one", _small(), 1)
    _write(made, "empty", _small().slice(0, 0), 2)
    return made


def _registered(context: SessionContext, folder: Path) -> SessionContext:
    for name in ("big", "small", "one", "empty"):
        context.register_parquet(name, str(folder / name) + "/")
    tail = _small().to_batches(max_chunksize=3)
    context.register_record_batches("tail", [tail[:2], tail[2:]])
    return context


STATEMENTS = """
SELECT * FROM small a LEFT JOIN big b ON a.k = b.k
SELECT * FROM small a RIGHT JOIN big b ON a.k = b.k
SELECT * FROM small a FULL JOIN big b ON a.k = b.k
SELECT * FROM big a LEFT JOIN small b ON a.k = b.k AND a.id > b.k * 100
SELECT * FROM small a FULL JOIN big b ON a.k = b.k AND b.id % 2 = 0
SELECT * FROM small a JOIN big b ON a.x = b.x
SELECT a.name, b.id FROM small a LEFT SEMI JOIN big b ON a.k = b.k JOIN big b ON a.k = b.k
SELECT * FROM small a LEFT ANTI JOIN big b ON a.k = b.k
SELECT * FROM big a RIGHT SEMI JOIN small b ON a.k = b.k
SELECT * FROM big a RIGHT ANTI JOIN small b ON a.k = b.k
SELECT id FROM big WHERE k IN (SELECT k FROM small)
SELECT id FROM big WHERE k NOT IN (SELECT k FROM small)
SELECT id FROM big WHERE k NOT IN (SELECT k FROM small WHERE k IS NOT NULL)
SELECT name FROM small WHERE k NOT IN (SELECT k FROM big WHERE k IS NOT NULL)
SELECT name FROM small WHERE k NOT IN (SELECT k FROM big)
SELECT id FROM big b WHERE EXISTS (SELECT 1 FROM small s WHERE s.k = b.k AND s.x < b.x)
SELECT id FROM big b WHERE NOT EXISTS (SELECT 1 FROM small s WHERE s.k = b.k)
SELECT id FROM big b WHERE EXISTS (SELECT 1 FROM small s WHERE s.k = b.k) OR b.id < 10
SELECT id FROM big b WHERE k IN (SELECT k FROM small) OR b.id < 10
SELECT name FROM small s WHERE k IN (SELECT k FROM big) OR name = 'a'
SELECT id, (SELECT max(s.x) FROM small s WHERE s.k = b.k) FROM big b
SELECT id FROM big WHERE x > (SELECT avg(x) FROM big WHERE x = x)
SELECT id, (SELECT count(*) FROM small) + (SELECT min(id) FROM big WHERE id > 3) FROM big WHERE id < 50
SELECT k, sum(id) FROM big GROUP BY k HAVING sum(id) > (SELECT sum(id) / 400 FROM big)
SELECT id FROM big WHERE id > (SELECT max(id) - (SELECT count(*) FROM small) FROM big)
SELECT a.name, b.id FROM small a JOIN big b ON a.k < b.k AND b.id < 20
SELECT a.name, b.id FROM small a LEFT JOIN big b ON a.k > b.k AND b.id < 100
SELECT a.name, b.id FROM small a FULL JOIN big b ON a.k > b.k AND b.id < 100
SELECT count(*), sum(a.id) FROM big a, small b
SELECT count(*) FROM big a CROSS JOIN (SELECT 1 FROM big WHERE id < 30)
SELECT a.id, b.name FROM big a CROSS JOIN small b WHERE a.id < 5
SELECT count(*) FROM big
SELECT count(*), count(k), count(DISTINCT k), sum(DISTINCT k), count(DISTINCT g) FROM big
SELECT g, count(DISTINCT k), sum(d), avg(d), min(t), max(t) FROM big GROUP BY g
SELECT g, stddev(id), var_pop(id), corr(id, k), covar_samp(id, k), regr_slope(id, k) FROM big GROUP BY g
SELECT median(id), approx_distinct(k), bit_xor(id), bool_and(id >= 0) FROM big
SELECT k, median(id), array_agg(id ORDER BY id) FROM big GROUP BY k
SELECT g, first_value(id ORDER BY id), last_value(id ORDER BY id), string_agg(g, ',' ORDER BY id) FROM big GROUP BY g
SELECT k, g, sum(id), grouping(k) FROM big GROUP BY GROUPING SETS ((k, g), (k), (g), ())
SELECT k, g, count(*) FROM big GROUP BY CUBE (k, g)
SELECT g, s['a'], sum(d) FROM big GROUP BY ROLLUP (g, s['a'])
SELECT x, count(*) FROM big WHERE id % 5 < 4 GROUP BY x
SELECT l, count(*) FROM big GROUP BY l
SELECT s, count(*) FROM big GROUP BY s
SELECT g, l, s, t FROM big WHERE id < 20
SELECT unnest(l) AS u, id FROM big
SELECT id, unnest(s) FROM big WHERE id < 7
SELECT DISTINCT k FROM big
SELECT DISTINCT g, s FROM big
SELECT DISTINCT ON (k) k, id FROM big ORDER BY k, id DESC
SELECT k FROM big UNION SELECT k FROM small
SELECT k, 1 AS n FROM big UNION ALL SELECT k, NULL FROM small
SELECT k, sum(id) FROM big GROUP BY k UNION ALL SELECT k, count(*) FROM small GROUP BY k UNION ALL SELECT 1, 2
SELECT k FROM big INTERSECT SELECT k FROM small
SELECT k FROM big EXCEPT SELECT k FROM small
SELECT k FROM small EXCEPT ALL SELECT k FROM big
SELECT id, row_number() OVER (ORDER BY id), sum(id) OVER (ORDER BY id ROWS 3 PRECEDING) FROM big
SELECT id, rank() OVER (PARTITION BY k ORDER BY id), lag(id) OVER (PARTITION BY g ORDER BY id) FROM big
SELECT id, sum(id) OVER (PARTITION BY k), count(*) OVER () FROM big
SELECT g, sum(sum(id)) OVER (ORDER BY g) FROM big GROUP BY g
SELECT id FROM big QUALIFY row_number() OVER (PARTITION BY k ORDER BY id DESC) = 1
SELECT * FROM big ORDER BY k DESC NULLS LAST, id
SELECT id, d FROM big ORDER BY d, id LIMIT 50 OFFSET 20
SELECT id, x FROM big ORDER BY x, id
SELECT id FROM big ORDER BY id LIMIT 0
SELECT count(*) FROM (SELECT id FROM big LIMIT 1000 OFFSET 100)
SELECT count(*) FROM (SELECT id FROM big WHERE id % 3 = 0 LIMIT 500)
SELECT k, count(*) AS n FROM big GROUP BY k ORDER BY n DESC, k LIMIT 7
SELECT count(*) FROM (SELECT DISTINCT k FROM big LIMIT 10)
SELECT * FROM empty
SELECT count(*), sum(x), max(name) FROM empty
SELECT name, sum(x) FROM empty GROUP BY name
SELECT * FROM empty a RIGHT JOIN small b ON a.k = b.k
SELECT * FROM big b LEFT JOIN empty a ON a.k = b.k
SELECT id FROM big WHERE k NOT IN (SELECT k FROM empty)
SELECT * FROM big WHERE false
SELECT id FROM big WHERE id > (SELECT max(x) FROM empty)
SELECT b.id, t.name FROM big b JOIN tail t ON b.k = t.k
SELECT * FROM tail UNION ALL SELECT * FROM small
SELECT name FROM (SELECT b.k, b.id, t.name FROM tail t RIGHT JOIN big b ON b.k = t.k) WHERE id < 1000
SELECT k, sum(x) FROM (SELECT k, x FROM big UNION ALL SELECT k, x FROM tail) WHERE x = x GROUP BY k
SELECT b.id FROM tail t RIGHT ANTI JOIN big b ON b.k = t.k
SELECT a.id, b.id, c.name FROM big a JOIN big b ON a.id = b.id + 1 JOIN small c ON b.k = c.k
SELECT o.k, count(*) FROM one o JOIN big b USING (k) GROUP BY o.k ORDER BY 1
SELECT value, id FROM big, generate_series(1, 3) AS s(value) WHERE id < 9
WITH a AS (SELECT k, sum(id) AS n FROM big GROUP BY k) SELECT * FROM a x JOIN a y ON x.n = y.n
SELECT * FROM small a JOIN small b ON a.k = b.k JOIN big c ON b.k = c.k
SELECT CASE WHEN k > 3 THEN 'x' END, count(*) FROM big GROUP BY 1
SELECT date_trunc('minute', t), count(*) FROM big GROUP BY 1 ORDER BY 1
SELECT arrow_cast(g, 'Utf8View') AS v, count(*) FROM big GROUP BY v
VALUES (1, 'a'), (2, 'b')
SELECT 1
""".strip().splitlines()


@pytest.fixture(scope="module")
def alone(folder: Path) -> SessionContext:
    return _registered(SessionContext(), folder)


@pytest.fixture(scope="module", params=((1, {}), (3, {}), (3, PARTITIONED), (8, {})), ids=str)
def planned(request: pytest.FixtureRequest, folder: Path) -> SessionContext:
    n_tasks, options = request.param
    return _registered(context_of(n_tasks, options), folder)


@pytest.mark.parametrize("sql", STATEMENTS)
def test_a_statement_in_stages_gives_the_rows_of_one_process(
    sql: str, planned: SessionContext, alone: SessionContext
) -> None:
    wanted = alone.sql(sql).to_arrow_table()
    got, _stages = run(planned, sql)
    assert_same(got, wanted, ordered=sql.rsplit(")", 1)[-1].count("ORDER BY") > 0)


@pytest.mark.parametrize(
    "sql", ["SELECT g, sum(d) FROM big GROUP BY g", "SELECT * FROM small a FULL JOIN big b USING (k)"]
)
def test_tasks_in_other_processes_give_the_same_rows(sql: str, folder: Path, alone: SessionContext) -> None:
    got = run_in_processes(_registered(context_of(2), folder), sql)
    assert_same(got, alone.sql(sql).to_arrow_table())


def test_a_task_has_only_its_own_files(folder: Path) -> None:
    context = _registered(context_of(5, {"datafusion.optimizer.repartition_file_scans": "false"}), folder)
    stage = split(context, plan_of(context, "SELECT k, sum(id) FROM big GROUP BY k")).stages[0]
    named = [[n for n in range(5) if f"big/{n}.parquet".encode() in stage.piece(k).plan] for k in range(5)]
    assert sorted(named) == [[0], [1], [2], [3], [4]]
    assert stage.scan_bytes == sum(each.stat().st_size for each in (folder / "big").iterdir())


def test_a_small_side_is_read_by_each_task_and_a_large_one_is_sent(folder: Path) -> None:
    context = _registered(context_of(3), folder)
    small = split(context, plan_of(context, "SELECT b.id, o.name FROM one o JOIN big b USING (k)")).stages
    assert [stage.exchange.kind for stage in small] == ["gather", "gather"]
    sent = split(context, plan_of(context, "SELECT b.id, s.name FROM small s JOIN big b USING (k)")).stages
    assert [stage.exchange.kind for stage in sent] == ["broadcast", "gather", "gather"]


def test_a_join_that_keeps_rows_of_its_collected_side_is_partitioned(folder: Path) -> None:
    context = _registered(context_of(3), folder)
    sql = "SELECT * FROM small s LEFT JOIN big b ON s.k = b.k"
    assert "CollectLeft" in plan_of(context, sql).display_indent()
    stages = split(context, plan_of(context, sql))
    assert [stage.exchange.kind for stage in stages.stages] == ["hash", "hash", "gather", "gather"]
    assert not stages.reason


def test_rows_without_a_partner_are_not_shuffled_where_they_change_nothing(
    folder: Path, alone: SessionContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = _registered(context_of(3), folder)
    kept = "SELECT * FROM small s LEFT JOIN big b ON s.k = b.k"
    assert [stage.kind for stage in split(context, plan_of(context, kept)).stages[:2]] == ["scan", "scan"]
    monkeypatch.setattr("functions.stage_cut.REDUCED_BYTES", -1)
    assert [stage.kind for stage in split(context, plan_of(context, kept)).stages[:2]] == ["scan", "join"]
    whole = "SELECT * FROM small s FULL JOIN big b ON s.k = b.k"
    assert [stage.kind for stage in split(context, plan_of(context, whole)).stages[:2]] == ["scan", "scan"]
    for sql in (each for each in STATEMENTS if any(word in each for word in ("JOIN", "EXISTS", " IN (", "EXCEPT"))):
        got, _ = run(context, sql)
        assert_same(got, alone.sql(sql).to_arrow_table(), ordered=sql.rsplit(")", 1)[-1].count("ORDER BY") > 0)


def test_not_in_is_one_task_and_says_why(folder: Path) -> None:
    context = _registered(context_of(3), folder)
    stages = split(context, plan_of(context, "SELECT name FROM small WHERE k NOT IN (SELECT k FROM big)"))
    assert "NOT IN" in stages.reason
    assert stages.stages[-1].n_partitions == 1


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT random(), id FROM big", "random() gives other values in each task"),
        ("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT * FROM r", "only this"),
        ("SELECT name FROM dataset", "only this process can read"),
        ("SELECT ours(id) FROM big", ""),
        ("SELECT 1", "one partition"),
    ],
)
def test_what_is_not_cut_is_one_stage_with_a_reason(sql: str, reason: str, folder: Path) -> None:
    import pyarrow.dataset as ds

    context = _registered(context_of(3), folder)
    context.register_dataset("dataset", ds.dataset(str(folder / "small")))
    context.register_udf(udf(lambda each: each, [pa.int64()], pa.int64(), "immutable", "ours"))
    stages = split(context, plan_of(context, sql))
    if reason:
        assert reason in stages.reason
        assert len(stages.stages) == 1
        assert stages.stages[0].n_partitions == 1
    else:
        assert not stages.reason


def test_rows_whose_order_is_kept_through_a_repartitioning_stay_together(folder: Path) -> None:
    context = _registered(context_of(3, {"datafusion.optimizer.prefer_existing_sort": "true"}), folder)
    context.sql(f"CREATE EXTERNAL TABLE sorted (id BIGINT) STORED AS PARQUET LOCATION '{folder}/big/' WITH ORDER (id)")
    sql = "SELECT id, row_number() OVER (PARTITION BY id ORDER BY id) AS n FROM sorted"
    assert "preserve_order=true" in plan_of(context, sql).display_indent()
    got, stages = run(context, sql)
    assert "keep their order" in stages.reason
    assert sorted(got["id"].to_pylist()) == list(range(N_ROWS))


def test_a_plan_that_is_not_cut_gives_all_its_rows_as_one_task(folder: Path) -> None:
    context = _registered(context_of(3), folder)
    got, stages = run(context, "SELECT id FROM big WHERE random() >= 0")
    assert stages.stages[0].whole
    assert sorted(got["id"].to_pylist()) == list(range(N_ROWS))


def test_a_worker_knows_a_function_by_name_and_takes_no_code(folder: Path) -> None:
    context = _registered(context_of(3), folder)
    context.register_udf(udf(lambda each: each, [pa.int64()], pa.int64(), "immutable", "ours"))
    piece = split(context, plan_of(context, "SELECT ours(id) AS id FROM big")).stages[0].piece(0)
    with pytest.raises(Exception, match="ours"):
        bind(SessionContext(), piece.plan, {})
    inlined = plan_of(context, "SELECT ours(id) AS id FROM big").to_bytes(context)
    with pytest.raises(Exception, match="inlin"):
        bind(SessionContext(), inlined, {})


def test_now_is_one_value_in_all_tasks(folder: Path) -> None:
    got, _stages = run(_registered(context_of(3), folder), "SELECT DISTINCT now() FROM big")
    assert got.num_rows == 1


def test_a_limit_is_kept_by_each_task(folder: Path) -> None:
    context = _registered(context_of(3), folder)
    stages = split(context, plan_of(context, "SELECT id FROM big WHERE id % 2 = 0 LIMIT 5"))
    assert all("fetch=5" in bind(context, stages.stages[0].piece(k).plan, {}).display_indent() for k in range(3))


def test_a_scalar_subquery_of_several_rows_is_an_error_as_ever(folder: Path) -> None:
    with pytest.raises(Exception, match="more than one row"):
        run(_registered(context_of(3), folder), "SELECT id FROM big WHERE id = (SELECT k FROM small)")


def test_a_leaf_without_input_is_refused(folder: Path) -> None:
    context = _registered(context_of(3), folder)
    stage = split(context, plan_of(context, "SELECT k, count(*) FROM big GROUP BY k")).stages[1]
    piece = stage.piece(1)
    [read] = piece.reads
    assert (read.stage, read.bucket, read.apart) == (0, 1, False)
    with pytest.raises(InvalidError, match="lacks an input"):
        bind(context, piece.plan, {})
    with pytest.raises(InvalidError, match="a partition that its plan lacks"):
        bind(context, piece.plan, {read.name: {1: []}})
    assert bind(context, piece.plan, {read.name: {}}).partition_count == 1


def test_pages_are_told_the_partition_of_the_leaf() -> None:
    def page(bucket: int) -> Page:
        return Page(1, 1, "", bucket)

    replies = [[page(0), page(1)], [page(1), page(1)]]
    buckets = {
        Read("s", 0, 1): [0, 0, 0],
        Read("s", 0): [0, 0, 0, 0],
        Read("s", 0, None, apart=True): [0, 0, 1, 1],
    }
    assert {read: [each.bucket for each in pages_of(read, replies)] for read in buckets} == buckets


def test_a_plan_of_another_engine_is_refused(folder: Path) -> None:
    context = _registered(context_of(3), folder)
    for sql in ("SELECT count(*) FROM big", "SELECT count(*) FROM big WHERE random() >= 0"):
        plan = split(context, plan_of(context, sql)).stages[0].piece(0).plan
        other = plan.replace(engine().encode(), engine().replace("datafusion", "datafusiom").encode())
        with pytest.raises(UnsupportedError, match="another engine") as caught:
            bind(context, other, {})
        assert caught.value.facts["differs"] == "engine"


@pytest.mark.parametrize("cut_at", [1, 5, 40])
def test_damaged_plans_are_said_to_be_damaged(cut_at: int, folder: Path) -> None:
    context = _registered(context_of(3), folder)
    data = split(context, plan_of(context, "SELECT count(*) FROM big")).stages[0].plan
    with pytest.raises(CorruptError):
        decode(data[:-cut_at])


def test_rows_in_memory_become_pages_when_they_are_many(folder: Path, alone: SessionContext) -> None:
    context = _registered(context_of(3), folder)
    batches = pa.table({"k": pa.array(range(200_000)), "n": pa.array(range(200_000))}).to_batches(max_chunksize=50_000)
    for each in (context, alone):
        each.register_record_batches("many", [batches[:1], batches[1:3], batches[3:]])
    for sql in (
        "SELECT k, n FROM many UNION ALL SELECT k, id FROM big",
        "SELECT b.id, m.n FROM many m JOIN big b ON b.k = m.k",
        "SELECT b.id FROM many m RIGHT ANTI JOIN big b ON b.k = m.k",
        "SELECT sum(n) FROM many",
        "SELECT * FROM many",
    ):
        got, stages = run(context, sql)
        assert_same(got, alone.sql(sql).to_arrow_table())
        local = [stage for stage in stages.stages if stage.local]
        assert [(stage.n_partitions, stage.exchange.n_buckets) for stage in local] == [(1, 3)]
        assert max(len(piece.plan) for stage in stages.stages if not stage.local for piece in pieces(stage)) < 20_000


def test_work_is_not_left_to_the_last_stage(folder: Path) -> None:
    context = _registered(context_of(3), folder)
    for sql in (
        "SELECT name FROM small WHERE k NOT IN (SELECT k FROM big)",
        "SELECT id, sum(id) OVER (ORDER BY id) FROM big",
        "SELECT * FROM big",
    ):
        assert split(context, plan_of(context, sql)).stages[-1].passes
    assert not split(context, plan_of(context, "SELECT count(*) FROM big")).stages[-1].passes
