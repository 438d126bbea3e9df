"""The functions' benchmarks run on tiny data, and their verdicts can fail."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from os import getpid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.functions import program as functions_program
from benchmarks.functions_coordinator import measure_coordinator
from benchmarks.functions_cost import Compared, Used, measure_cost
from benchmarks.functions_cost import _section as cost_section
from benchmarks.functions_options import OFFICIAL_FUNCTIONS, SMOKE_FUNCTIONS, FunctionsOptions
from benchmarks.functions_overhead import _parts, _task
from benchmarks.functions_peers import SECRET
from benchmarks.functions_tpch import PLACES, Place, _run_place
from benchmarks.functions_tpch import _section as tpch_section
from benchmarks.page import with_part
from benchmarks.peer_process import Run, peer_process
from benchmarks.process_tree import tree_cpu_s
from functions.task_worker import TaskWorkerSettings


@pytest.fixture
def tiny(tmp_path: Path) -> FunctionsOptions:
    return replace(SMOKE_FUNCTIONS, files=(20,), dispatched=(20,), statements=1, build=tmp_path)


def test_the_cpu_time_of_a_tree_is_that_of_its_children_too() -> None:
    before_s = tree_cpu_s(getpid())
    code = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        running_s = tree_cpu_s(getpid()) - before_s
        child.communicate(b"\n")
    time.sleep(0.05)
    assert running_s >= 0.15
    assert tree_cpu_s(getpid()) - before_s >= running_s


def test_the_coordinator_is_measured_in_a_process_of_its_own(tiny: FunctionsOptions) -> None:
    section = measure_coordinator(tiny)
    assert [table.title for table in section.tables] == ["Planning", "Dispatch", "Stragglers"]
    assert all(goal.measured is not None for goal in section.goals)


@pytest.mark.anyio
async def test_the_parts_of_a_task_add_up_to_it(tmp_path: Path) -> None:
    task = _task(str(tmp_path))
    *parts, (_name, total) = await _parts(task, TaskWorkerSettings(str(tmp_path), SECRET.encode()), 3)
    assert sum(value for _name, value in parts) == pytest.approx(total)


@pytest.mark.parametrize("place", ["in process", "2 processes"])
def test_a_place_answers_with_what_one_process_does(place: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2, 3]}), tmp_path / "t.parquet")
    with peer_process(place) as peer:
        peer.open({"t": str(tmp_path / "t.parquet")})
        run = peer.run("SELECT sum(x) AS s FROM t", save=tmp_path / "answer.arrow")
    assert run.receipt is not None
    with pa.ipc.open_file(tmp_path / "answer.arrow") as answer:
        assert answer.read_all().column("s").to_pylist() == [6]


def test_totals_count_queries_that_a_place_answers_and_goals_the_others() -> None:
    receipt = {"tasks": 2, "bytes_moved": 10, "cost_usd": 1e-5}
    good = Place({1: [1.0, 1.0]}, {1: [1.0, 1.0]}, {1: Run(1.0, 1.0, 1, receipt)})
    lost = Place(faults={1: "another answer than one process: row 1"})
    found = dict.fromkeys((*PLACES, "Sail", "Dask", "Ray Data"), good) | {"2 processes": lost}
    section = tpch_section(SMOKE_FUNCTIONS, found, [1])
    assert not section.goals[0].met
    assert "2 processes, Q1: another answer than one process: row 1" in section.notes
    assert tpch_section(SMOKE_FUNCTIONS, found | {"2 processes": good}, [1]).goals[0].met


def test_the_only_run_of_a_query_is_held_to_one_process_and_timed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"l_orderkey": [1, 2], "l_linestatus": ["F", "O"]}), tmp_path / "t.parquet")
    options = FunctionsOptions(repeats=0)
    tables, queries = {"lineitem": str(tmp_path / "t.parquet")}, {1: "SELECT sum(l_orderkey) AS s FROM lineitem"}
    place = Place()
    with peer_process("in process") as peer:
        _run_place(peer, place, tables, queries, tmp_path, options)
    assert not place.faults
    assert len(place.walls_s[1]) == len(place.cpus_s[1]) == 1
    assert place.peak_rss_bytes > 1e7
    assert "that of the only run" in tpch_section(
        options, dict.fromkeys((*PLACES, "Sail", "Dask", "Ray Data"), place), [1]
    ).facts[0]  # fmt: skip


def test_only_the_scales_of_the_page_are_official_and_each_has_a_part_of_its_own() -> None:
    program = functions_program()
    large, other = OFFICIAL_FUNCTIONS.scaled("10"), OFFICIAL_FUNCTIONS.scaled("3")
    assert large.official
    assert not other.official
    assert len(large.queries) == 22
    assert [program.part(scale) for scale in ("", "1", "10")] == ["functions", "functions", "functions-sf10"]
    assert program.scaled("10").sections == ("tpch",)
    page = with_part(with_part("", "functions-sf10", "ten times"), "functions", "the others")
    assert page.endswith("the others\n\n<!-- part: functions-sf10 -->\n\nten times\n")


def test_a_receipt_that_is_off_by_more_than_five_percent_misses_its_goal() -> None:
    truth = Used(100, 10, 1.0, 1.0, 100.0)
    found = {place: {1: Compared(2, 0.0, replace(truth, usd=95.5, gets=94), truth)} for place in (
        "in process", "2 processes", "2 Lambda emulators")}  # fmt: skip
    goals = {goal.name.partition(",")[0]: goal for goal in cost_section(SMOKE_FUNCTIONS, found, []).goals}
    assert goals["cost in USD"].met
    assert not goals["gets"].met


@pytest.mark.e2e
def test_receipts_are_held_to_the_stores_log(tmp_path: Path) -> None:
    from benchmarks.tpch_data import tpch_tables

    try:
        tpch_tables("0.01", tmp_path)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    section = measure_cost(replace(SMOKE_FUNCTIONS, cost_queries=(6,), build=tmp_path))
    gets = [goal for goal in section.goals if goal.name.startswith("gets")]
    assert [goal.met for goal in gets] == [True, True]
