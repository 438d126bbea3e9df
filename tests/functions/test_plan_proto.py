"""The numbers of nodes and fields are those that the engine writes, and what is not read stays as it is."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion import ExecutionPlan, SessionConfig, SessionContext
from hypothesis import given
from hypothesis import strategies as st

from functions.plan_files import files_of
from functions.plan_proto import CHILD_FIELDS, SCANS, Kind, Node, decode, encode, fields_of, join_fields
from storage.errors import CorruptError, UnsupportedError

NAMES = {
    "AggregateExec": Kind.AGGREGATE, "HashJoinExec": Kind.HASH_JOIN, "SortExec": Kind.SORT, "FilterExec": Kind.FILTER,
    "CoalescePartitionsExec": Kind.COALESCE_PARTITIONS, "RepartitionExec": Kind.REPARTITION,
    "WindowAggExec": Kind.WINDOW, "BoundedWindowAggExec": Kind.WINDOW, "CrossJoinExec": Kind.CROSS_JOIN,
    "UnionExec": Kind.UNION, "SortPreservingMergeExec": Kind.SORT_PRESERVING_MERGE, "EmptyExec": Kind.EMPTY,
    "NestedLoopJoinExec": Kind.NESTED_LOOP_JOIN, "InterleaveExec": Kind.INTERLEAVE, "UnnestExec": Kind.UNNEST,
    "PlaceholderRowExec": Kind.PLACEHOLDER_ROW, "LazyMemoryExec": Kind.GENERATE_SERIES,
    "ProjectionExec": Kind.PROJECTION,
    "SortMergeJoinExec": Kind.SORT_MERGE_JOIN, "ScalarSubqueryExec": Kind.SCALAR_SUBQUERY,
    "GlobalLimitExec": Kind.GLOBAL_LIMIT, "LocalLimitExec": Kind.LOCAL_LIMIT, "CooperativeExec": Kind.COOPERATIVE,
    "BufferExec": Kind.BUFFER,
}  # fmt: skip
PLANS = (
    "SELECT a, count(*) FROM t GROUP BY a ORDER BY a LIMIT 2 OFFSET 1",
    "SELECT * FROM t x JOIN t y ON x.a = y.a",
    "SELECT * FROM t x LEFT JOIN t y ON x.a < y.a",
    "SELECT * FROM t x, t y",
    "SELECT sum(a) OVER (PARTITION BY b), sum(a) OVER () FROM t WHERE a > 1",
    "SELECT a FROM t WHERE a > (SELECT min(a) FROM t)",
    "SELECT a, b FROM t UNION ALL SELECT 1, 'x'",
    "SELECT a FROM t GROUP BY a UNION ALL SELECT a FROM t GROUP BY a",
    "SELECT unnest([1, 2]), value FROM generate_series(1, 3)",
    "SELECT * FROM t WHERE false",
    "SELECT count(*) FROM (SELECT a FROM t UNION ALL (SELECT a FROM t WHERE a > 1 LIMIT 3))",
    "SELECT * FROM c",
    "SELECT * FROM j",
    "SELECT * FROM r",
)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> SessionContext:
    folder = tmp_path_factory.mktemp("plans")
    rows = pa.table({"a": list(range(3000)), "b": [str(n) for n in range(3000)]})
    (folder / "t").mkdir()
    for number in range(3):
        pq.write_table(rows.slice(number * 1000, 1000), folder / "t" / f"{number}.parquet")
    Path(folder / "c.csv").write_text("a,b\n1,x\n")
    Path(folder / "j.json").write_text('{"a": 1}\n')
    made = SessionContext(SessionConfig().with_target_partitions(3))
    made.register_parquet("t", f"{folder}/t/")
    made.register_csv("c", str(folder / "c.csv"))
    with pa.ipc.new_file(folder / "r.arrow", rows.schema) as writer:
        writer.write_table(rows.slice(0, 10))
    made.register_arrow("r", str(folder / "r.arrow"))
    made.register_json("j", str(folder / "j.json"))
    return made


def _pairs(plan: ExecutionPlan, node: Node) -> list[tuple[str, int]]:
    children = plan.children()
    assert len(children) == len(node.inputs), plan.display()
    mine = [(plan.display().split(":")[0].strip(), node.kind)]
    return mine + [each for child, below in zip(children, node.inputs, strict=True) for each in _pairs(child, below)]


@pytest.mark.parametrize("joins", ["hash", "sort_merge"])
@pytest.mark.parametrize("sql", PLANS)
def test_every_node_is_the_one_that_the_engine_shows(sql: str, joins: str, context: SessionContext) -> None:
    context.sql(f"SET datafusion.optimizer.prefer_hash_join = {joins == 'hash'}")
    plan = context.sql(sql).execution_plan()
    for name, kind in _pairs(plan, decode(plan.to_bytes(context))):
        if name == "DataSourceExec":
            assert kind in {*SCANS, Kind.MEMORY_SCAN}
        else:
            assert NAMES[name] == kind


@pytest.mark.parametrize("sql", PLANS)
def test_a_plan_that_was_taken_apart_is_the_same_plan(sql: str, context: SessionContext) -> None:
    plan = context.sql(sql).execution_plan()
    node = decode(plan.to_bytes(context))
    again = ExecutionPlan.from_bytes(context, encode(node))
    assert again.display_indent() == ExecutionPlan.from_bytes(context, plan.to_bytes(context)).display_indent()
    assert decode(encode(node)) == node


def test_a_scan_has_one_group_for_each_partition(context: SessionContext) -> None:
    plan = context.sql("SELECT a FROM t").execution_plan()
    node = decode(plan.to_bytes(context))
    assert len(node.groups) == plan.partition_count == 3
    assert sorted(name.rsplit("/", 1)[1] for name in files_of(encode(node))) == [f"{n}.parquet" for n in range(3)]


def test_files_are_seen_however_a_scan_is_written(context: SessionContext) -> None:
    node = decode(context.sql("SELECT a FROM t").execution_plan().to_bytes(context))
    [config] = [value for field, value in node.fields if field == 1]
    assert isinstance(config, bytes)
    halves = [join_fields([(1, group)]) for group in node.groups]
    rest = [each for each in node.fields if each[0] != 1]
    odd = join_fields([(node.kind, join_fields([(1, config), *((1, half) for half in halves), *rest]))])
    assert len(list(files_of(odd))) == 3
    assert ExecutionPlan.from_bytes(context, encode(decode(odd))).partition_count == 3


def test_every_kind_says_which_of_its_fields_are_nodes() -> None:
    assert set(CHILD_FIELDS) == set(Kind)


def test_unknown_nodes_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="node=29"):
        decode(join_fields([(29, b"")]))


FIXED = st.sampled_from((4, 8)).flatmap(lambda size: st.binary(min_size=size, max_size=size))


@given(st.lists(st.one_of(
    st.tuples(st.integers(1, 1 << 28), st.integers(0, (1 << 64) - 1)),
    st.tuples(st.integers(1, 1 << 28), st.binary(max_size=300)),
    st.tuples(st.integers(-(1 << 28), -1), FIXED),
)))  # fmt: skip
def test_fields_are_read_as_they_were_written(fields: list[tuple[int, int | bytes]]) -> None:
    assert list(fields_of(join_fields(fields))) == fields


@given(st.binary(max_size=200))
def test_any_bytes_are_fields_or_said_to_be_none(data: bytes) -> None:
    with suppress(CorruptError, UnsupportedError):
        decode(data)
