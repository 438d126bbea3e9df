"""Every part of the benchmarks runs on tiny data, and its verdicts can fail."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.bare_route import create_bare_app
from benchmarks.cold import base_environment
from benchmarks.load import exchange, latencies, request_bytes, throughput
from benchmarks.measure import mb, median_of, ms, percentile, ratio
from benchmarks.memory import watching
from benchmarks.options import SMOKE, Options
from benchmarks.peer_process import PeerError, Run, peer_process
from benchmarks.planning import measure_planning, repeated
from benchmarks.serving import start_announced
from benchmarks.tpch import Timings, section_of

TINY = replace(SMOKE, repeats=1, files=20, requests=20, seconds=0.1)


@pytest.fixture
def tiny(tmp_path: Path) -> Options:
    return replace(TINY, build=tmp_path)


def test_percentiles_and_ratios() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([1.0] * 99 + [9.0], 99) == 1.0
    assert (ms(median_of([])), ms(0.0123), mb(2_500_000), ratio(3, 2), ratio(1, 0)) == (
        "–",
        "12.3",
        "2.5",
        "1.50×",
        "–",
    )


@pytest.mark.parametrize("engine", ["firnline", "firnline-new-text", "datafusion", "duckdb", "polars"])
def test_an_engine_answers_from_a_process_of_its_own_and_survives_a_wrong_statement(
    engine: str, tmp_path: Path
) -> None:
    pytest.importorskip(engine.partition("-")[0])
    pq.write_table(pa.table({"x": [1, 2, 3]}), tmp_path / "t.parquet")
    with peer_process(engine) as peer:
        peer.open({"t": str(tmp_path / "t.parquet")})
        with pytest.raises(PeerError, match="nowhere"):
            peer.run("SELECT x FROM nowhere")
        run = peer.run("SELECT x FROM t WHERE x > 1;", save=tmp_path / "answer.arrow")
        assert peer.peak_rss_bytes() > 10 << 20
    assert run.rows == 2
    assert run.wall_s > 0
    with pa.ipc.open_file(tmp_path / "answer.arrow") as answer:
        assert sorted(answer.read_all().column("x").to_pylist()) == [2, 3]


def test_an_engine_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    with peer_process("duckdb") as peer:
        peer.open({})
        with pytest.raises(PeerError, match="took more than"):
            peer.run("SELECT count(*) FROM range(100000000) a, range(1000) b WHERE a.range % 7 < b.range", timeout_s=1)


def _timings(wall_s: float, faults: dict[int, str] | None = None) -> Timings:
    return Timings({1: [Run(wall_s, wall_s, 1)], 2: [Run(wall_s, wall_s, 1)]}, faults or {})


def test_tpch_goals_fail_when_firnline_is_slower_or_wrong() -> None:
    found = {"firnline": _timings(1.0), "datafusion": _timings(1.0), "firnline-http": _timings(1.05)}
    assert [goal.met for goal in section_of(found, [1, 2], TINY).goals] == [True, True, True]
    slow = found | {"firnline": _timings(1.1), "firnline-http": _timings(1.3)}
    assert [goal.met for goal in section_of(slow, [1, 2], TINY).goals] == [True, False, False]
    wrong = section_of(found | {"firnline": _timings(1.0, {2: "another answer"})}, [1, 2], TINY)
    assert not wrong.goals[0].met
    assert "firnline, query 2: another answer" in wrong.notes


def test_tpch_goals_fail_when_a_query_did_not_run() -> None:
    found = {"firnline": _timings(1.0), "datafusion": _timings(1.0), "firnline-http": _timings(1.0)}
    del found["firnline"].runs[2]
    found["firnline"].faults[2] = "fails"
    assert not any(goal.met for goal in section_of(found, [1, 2], TINY).goals)


def test_a_bare_route_takes_load(tmp_path: Path) -> None:
    assert create_bare_app(b"{}").routes
    (tmp_path / "answer.json").write_bytes(b'{"rows":[[1]]}')
    with start_announced("benchmarks.bare_route", str(tmp_path / "answer.json")) as (url, pid), watching(pid) as watch:
        request = request_bytes(url + "/v1/sql", b"{}")
        _head, body = exchange(url, request)
        assert json.loads(body) == {"rows": [[1]]}
        assert len(latencies(url, request, 20)) == 20
        rate, seconds = throughput(url, request, 8, 0.3)
        assert rate > 10
        assert len(seconds) > 3
        with pytest.raises(ConnectionError, match="404"):
            latencies(url, request_bytes(url + "/nowhere", b"{}"), 1)
    assert watch.peak_process_bytes > 10 << 20


def test_a_server_that_does_not_come_up_is_said_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="FileNotFoundError"), start_announced("benchmarks.bare_route", "/nowhere"):
        pass


def test_planning_runs_on_a_small_table_and_counts_its_requests(tiny: Options) -> None:
    pytest.importorskip("deltalake")
    pytest.importorskip("pyiceberg")
    section = measure_planning(tiny)
    assert [row[0] for row in section.tables[1].rows][:2] == ["delta, S3 API: first", "delta, S3 API: again"]
    assert all(goal.measured is not None for goal in section.goals)
    assert [goal.met for goal in section.goals if "repeated" in goal.name] == [True, True]


def test_a_repeated_fetch_of_metadata_is_told_from_data_and_newness(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": list(range(10_000))}), tmp_path / "f.parquet")
    size = (tmp_path / "f.parquet").stat().st_size

    def request(kind: str, path: str, range_: str | None = None, status: int = 200) -> dict[str, object]:
        return {"kind": kind, "path": path, "query": {}, "range": range_, "status": status, "bytes": 10}

    log = request("GET", "/b/_delta_log/0.json")
    footer = request("GET", "/f.parquet", f"bytes=-{8}", 206)
    data = request("GET", "/f.parquet", "bytes=4-20", 206)
    whole = request("GET", "/f.parquet", f"bytes=0-{size - 1}", 206)
    newness = [request("LIST", "/b/"), request("HEAD", "/f.parquet"), request("GET", "/b/1.json", status=404)]
    assert repeated([log, footer, data, *newness], [data, *newness], tmp_path) == []
    assert repeated([log, footer], [log, whole], tmp_path) == [log, whole]


@pytest.mark.slow
def test_tpch_runs_and_holds_every_engine_to_one_answer(tiny: Options) -> None:
    for package in ("duckdb_extension_tpch", "chdb", "polars"):
        pytest.importorskip(package, reason="the group bench is not installed")
    from benchmarks.tpch import measure_tpch

    section = measure_tpch(tiny)
    assert section.goals[0].met, section.notes
    assert len(section.tables[0].rows) == 22


@pytest.mark.slow
def test_a_worker_with_the_base_dependencies_alone_starts(tiny: Options) -> None:
    pytest.importorskip("deltalake")
    from benchmarks.cold import measure_cold

    section = measure_cold(tiny)
    assert section.notes == []
    assert [row[0] for row in section.tables[0].rows] == ["base dependencies", "full environment"]
    assert base_environment(tiny.build).is_file()
