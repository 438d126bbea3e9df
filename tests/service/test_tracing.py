"""Spans reach a real OTLP collector, and one trace holds what a statement did in every process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from functions import tracing
from tests.support.firn import environment, program
from tests.support.moto import free_port
from tests.support.otlp import Collector, Received, collecting

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SECRET = "the secret of a test of what is traced"


class Lake:
    """``firn serve`` and ``firn worker`` on one lake, told where spans go."""

    def __init__(self, folder: Path, collector: Collector) -> None:
        self.collector = collector
        port = free_port()
        self.variables = environment(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            FIRN_TASK_SECRET=SECRET,
            FIRN_FUNCTIONS=f"http://127.0.0.1:{port}",
            FIRN_STATEMENTS_MAX="1",
            FIRN_COMPACT_INTERVAL_MS="500",
        )
        self.folder = folder / "lake"
        self.processes: list[subprocess.Popen[str]] = []
        self.server = self.start("serve", "--port", "0")
        self.worker = self.start("worker", "--port", str(port))
        self.client = httpx.Client(base_url=self.server, timeout=60, trust_env=False)

    def start(self, name: str, *arguments: str) -> str:
        """Start a program on the lake; return its URL."""
        process = subprocess.Popen(
            [program(), name, "--lake", str(self.folder), *arguments],
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), line
        return line.split()[-1]

    def sql(self, sql: str, **members: object) -> httpx.Response:
        return self.client.post("/v1/sql", json={"sql": sql, **members})

    def close(self) -> None:
        self.client.close()
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(30)
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    with collecting() as collector:
        made = Lake(tmp_path_factory.mktemp("traced"), collector)
        try:
            made.sql("CREATE TABLE t (id BIGINT, n BIGINT) USING delta").raise_for_status()
            made.sql("INSERT INTO t SELECT value, value % 7 FROM generate_series(1, 5000)").raise_for_status()
            made.sql("OPTIMIZE t").raise_for_status()
            yield made
        finally:
            made.close()


def one(spans: list[Received], name: str) -> Received:
    [found] = [each for each in spans if each.name == name]
    return found


def test_one_trace_goes_through_endpoint_worker_process_and_task_worker(lake: Lake) -> None:
    body = {"sql": "SELECT n, count(*) FROM t GROUP BY n", "functions": "fan-out"}
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    answer = lake.client.post("/v1/sql", json=body, headers=headers)
    answer.raise_for_status()
    assert len(answer.json()["rows"]) == 7
    wanted = {"POST /v1/sql", "statement", "parse", "load", "plan", "encode"}
    n_tasks = answer.json()["receipt"]["tasks"]
    stages = {"stage aggregate", "task aggregate"}
    spans = lake.collector.wait(TRACE, wanted | stages, n={"run aggregate": n_tasks})
    by_id = {each.id: each for each in spans}
    request = one(spans, "POST /v1/sql")
    assert (request.parent, request.role, request.service) == (PARENT, "serve", "firnline")
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{request.id}-01"
    assert request.attributes["firnline.statement_id"] == answer.json()["statement_id"]
    assert request.attributes["http.response.status_code"] == 200
    statement = one(spans, "statement")
    assert (statement.parent, statement.role) == (request.id, "engine")
    assert statement.attributes["firnline.rows"] == 7
    for name in ("parse", "load", "plan"):
        assert by_id[one(spans, name).parent].name == "statement"
    ran = [each for each in spans if each.name == "run aggregate"]
    for each in ran:
        asked = by_id[each.parent]
        assert (asked.name, asked.role, each.role) == ("task aggregate", "engine", "worker")
        assert by_id[asked.parent].name == "stage aggregate"
        assert by_id[by_id[asked.parent].parent] == statement
        assert each.attributes["firnline.attempt"] == 1
        assert each.attributes["firnline.task_id"] == asked.attributes["firnline.task_id"]
    assert len(ran) == n_tasks
    assert not any(each.failed for each in spans)


def test_rows_are_followed_from_the_request_to_the_log(lake: Lake) -> None:
    trace = "1" * 32
    headers = {"traceparent": f"00-{trace}-{PARENT}-01"}
    lake.client.post("/v1/tables/default.t/rows", json=[{"id": -1, "n": 1}], headers=headers).raise_for_status()
    spans = lake.collector.wait(trace, {"POST /v1/tables/{name}/rows", "log append", "log queue", "log commit"})
    append = one(spans, "log append")
    assert append.parent == one(spans, "POST /v1/tables/{name}/rows").id
    assert {one(spans, name).parent for name in ("log queue", "log commit")} == {append.id}
    assert one(spans, "log queue").end_ns <= one(spans, "log commit").start_ns
    assert append.attributes["firnline.ack"] in ("fsync", "object")


def test_a_statement_that_writes_is_followed_from_its_process_to_the_logs(lake: Lake) -> None:
    trace = "2" * 32
    headers = {"traceparent": f"00-{trace}-{PARENT}-01"}
    lake.client.post("/v1/sql", json={"sql": "INSERT INTO t VALUES (-2, 2)"}, headers=headers).raise_for_status()
    spans = lake.collector.wait(trace, {"statement", "ask the log /append", "log append", "log commit"})
    asked, taken = one(spans, "ask the log /append"), one(spans, "log append")
    assert (asked.role, taken.role) == ("engine", "serve")
    [entered] = [each for each in spans if each.id == taken.parent]
    assert entered.parent == asked.id


def test_a_failure_is_told_by_its_class_and_quotes_nothing(lake: Lake) -> None:
    trace = "3" * 32
    headers = {"traceparent": f"00-{trace}-{PARENT}-01"}
    sql = "SELECT CAST('a secret value' AS BIGINT) FROM t"
    assert lake.client.post("/v1/sql", json={"sql": sql}, headers=headers).status_code == 400
    spans = lake.collector.wait(trace, {"POST /v1/sql", "statement"})
    statement = one(spans, "statement")
    assert statement.failed
    assert statement.attributes["error.type"].endswith("Error")
    assert "secret" not in json.dumps([each.attributes for each in spans])


def test_a_trace_that_its_client_does_not_record_is_not_recorded_here(lake: Lake) -> None:
    trace = "4" * 32
    lake.client.post("/v1/sql", json={"sql": "SELECT 1"}, headers={"traceparent": f"00-{trace}-{PARENT}-00"})
    lake.client.post("/v1/sql", json={"sql": "SELECT 1"}, headers={"traceparent": f"00-{'5' * 32}-{PARENT}-01"})
    lake.collector.wait("5" * 32, {"statement"})
    assert not lake.collector.spans(trace)


@pytest.mark.parametrize("given", ["", "rubbish", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01"])
def test_a_context_that_does_not_read_begins_a_trace_of_its_own(lake: Lake, given: str) -> None:
    answer = lake.client.post("/v1/sql", json={"sql": "SELECT 1"}, headers={"traceparent": given})
    trace = answer.headers["traceresponse"].split("-")[1]
    assert trace != TRACE
    assert one(lake.collector.wait(trace, {"POST /v1/sql"}), "POST /v1/sql").parent == ""


def test_a_pass_of_the_compactor_is_a_trace_of_its_own(lake: Lake) -> None:
    lake.client.post("/v1/tables/default.t/rows", json=[{"id": -3, "n": 3}]).raise_for_status()
    spans = lake.collector.wait("", {"compaction", "fold", "sweep"})
    folds = [each for each in spans if each.name == "fold"]
    above = {each.id: each for each in spans}
    assert {above[each.parent].name for each in folds if each.parent in above} == {"compaction"}
    assert {each.role for each in folds} == {"compactor"}


def test_workers_of_a_process_pool_are_part_of_the_trace(lake: Lake) -> None:
    lake.variables["FIRN_FUNCTIONS"] = "processes:2"
    trace = "6" * 32
    with httpx.Client(base_url=lake.start("serve", "--port", "0"), timeout=60, trust_env=False) as client:
        body = {"sql": "SELECT n, count(*) FROM t GROUP BY n", "functions": "fan-out"}
        headers = {"traceparent": f"00-{trace}-{PARENT}-01"}
        client.post("/v1/sql", json=body, headers=headers).raise_for_status()
        spans = lake.collector.wait(trace, {"statement", "task aggregate", "run aggregate"})
    by_id = {each.id: each for each in spans}
    assert {by_id[each.parent].name for each in spans if each.name == "run aggregate"} == {"task aggregate"}


def test_a_command_of_the_shell_sends_its_spans_before_it_ends(lake: Lake) -> None:
    before = len(lake.collector.spans())
    command = [program(), "sql", "--lake", str(lake.folder), "SELECT count(*) FROM t"]
    subprocess.run(command, env=lake.variables, check=True, capture_output=True, timeout=60)
    assert "statement" in {each.name for each in lake.collector.spans()[before:]}


def test_a_collector_that_is_away_costs_next_to_nothing(lake: Lake) -> None:
    away = {**lake.variables, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    command = [program(), "sql", "--lake", str(lake.folder), "--format", "csv", "SELECT 1 AS one"]
    done = subprocess.run(command, env=away, check=True, capture_output=True, timeout=60)
    assert done.stdout.split() == [b"one", b"1"]


def test_probes_leave_no_traces(lake: Lake) -> None:
    assert "traceresponse" not in lake.client.get("/healthz").headers
    assert not any(each.name.startswith("GET") for each in lake.collector.spans())


def test_without_an_endpoint_nothing_is_recorded_and_nothing_is_imported() -> None:
    script = (
        "import sys\nfrom functions import tracing\n"
        "with tracing.span('x', {'a': 1}) as span: assert not span.recorded\n"
        "with tracing.span('x', parent='00-" + TRACE + "-" + PARENT + "-01') as span:\n"
        "    assert tracing.trace_id() == '" + TRACE + "' and tracing.begin('y').traceparent == span.traceparent\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert not tracing.is_on()


def test_a_span_that_nobody_records_costs_next_to_nothing() -> None:
    import timeit

    def nothing() -> None:
        with tracing.span("x"):
            pass

    assert min(timeit.repeat(nothing, number=1000, repeat=5)) / 1000 < 20e-6
