"""Every TPC-H query in stages gives the rows of one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from datafusion import SessionContext

from benchmarks.tpch_data import TABLES, tpch_queries, tpch_tables
from tests.support.stage_run import assert_same, context_of, run, run_in_processes

NUMBERS = tuple(range(1, 23))
SCALE = "0.1"


@pytest.fixture(scope="module")
def queries() -> dict[int, str]:
    try:
        return tpch_queries()
    except (FileNotFoundError, ImportError) as error:
        pytest.skip(f"the texts of TPC-H's queries are missing: {error}")


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    try:
        return tpch_tables(SCALE)
    except FileNotFoundError as error:
        pytest.skip(f"TPC-H cannot be generated: {error}")


@pytest.fixture(scope="module")
def alone(files: dict[str, str]) -> SessionContext:
    return _registered(SessionContext(), files)


@pytest.fixture(scope="module", params=(1, 2, 3, 8))
def planned(request: pytest.FixtureRequest, files: dict[str, str]) -> Iterator[SessionContext]:
    # Files of a few hundred kilobytes are split too, so that every table has several shares.
    small = {"datafusion.optimizer.repartition_file_min_size": "10000"}
    yield _registered(context_of(request.param, small), files)


def _registered(context: SessionContext, files: dict[str, str]) -> SessionContext:
    for name in TABLES:
        context.register_parquet(name, str(Path(files[name])))
    return context


@pytest.mark.parametrize("number", NUMBERS)
def test_a_query_in_stages_gives_the_rows_of_one_process(
    number: int, planned: SessionContext, alone: SessionContext, queries: dict[int, str]
) -> None:
    wanted = alone.sql(queries[number]).to_arrow_table()
    got, stages = run(planned, queries[number])
    # Where rows tie in the ORDER BY, or are cut by a LIMIT among equals, any order is right.
    assert_same(got, wanted, ordered=number not in _TIES)
    assert not stages.reason or stages.reason == "the plan has one partition"


_TIES = frozenset((2, 3, 10, 18, 21))


@pytest.mark.parametrize("number", (1, 5, 13, 15, 18, 22))
def test_a_query_whose_joins_are_all_partitioned_gives_the_same_rows(
    number: int, files: dict[str, str], alone: SessionContext, queries: dict[int, str]
) -> None:
    options = {
        "datafusion.optimizer.hash_join_single_partition_threshold": "0",
        "datafusion.optimizer.hash_join_single_partition_threshold_rows": "0",
        "datafusion.optimizer.repartition_file_min_size": "10000",
    }
    got, _stages = run(_registered(context_of(3, options), files), queries[number])
    assert_same(got, alone.sql(queries[number]).to_arrow_table(), ordered=number not in _TIES)


@pytest.mark.parametrize("number", (1, 11))
def test_tasks_need_nothing_but_bytes(
    number: int, files: dict[str, str], alone: SessionContext, queries: dict[int, str]
) -> None:
    got = run_in_processes(_registered(context_of(2), files), queries[number])
    assert_same(got, alone.sql(queries[number]).to_arrow_table(), ordered=True)
