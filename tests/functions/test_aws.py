"""The worker as a Lambda function: events in, answers out, within the function's limits."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from functions.aws import LambdaWorker
from functions.exchange import decode_page, results_prefix
from functions.invoke.lambda_event import event_at, event_of, reply_of
from functions.task_worker import TaskWorkerSettings
from functions.tasks import Reply, Task, decode_reply, encode_task
from storage.clock import SystemClock
from storage.errors import ForbiddenError, InvalidError, NotFoundError, UnavailableError
from tests.support.firn import environment
from tests.support.task_plans import ENDLESS, stages_of, task_of

SECRET = b"shared by coordinator and workers"


class Context:
    """What Lambda gives a handler, as far as the worker reads it."""

    memory_limit_in_mb = "1024"

    def __init__(self, left_ms: int = 60_000) -> None:
        self.left_ms = left_ms

    def get_remaining_time_in_millis(self) -> int:
        return self.left_ms


@pytest.fixture
def function(tmp_path: Path) -> Iterator[LambdaWorker]:
    pq.write_table(pa.table({"k": range(200_000)}), tmp_path / "t.parquet")
    found = LambdaWorker(TaskWorkerSettings(str(tmp_path), SECRET), exit=lambda _code: None)
    yield found
    found.close()


def asked(folder: Path, sql: str, **changes: Any) -> Task:
    return task_of(folder, payload=stages_of(folder, sql, 1).stages[0].plan, **changes)


def ask(function: LambdaWorker, task: Task, context: Context | None = None) -> Reply:
    answer = function.handle(event_of(encode_task(task, SECRET)), context or Context())
    return decode_reply(reply_of(json.loads(json.dumps(answer))), SECRET, task)


def test_an_event_is_answered_with_the_reply(function: LambdaWorker, tmp_path: Path) -> None:
    for cold in (1.0, 0.0):
        found = ask(function, asked(tmp_path, "SELECT count(*) AS n FROM t"))
        [page] = found.pages
        assert page.data is not None
        assert [batch.to_pylist() for batch in decode_page(page, page.data)] == [[{"n": 200_000}]]
        assert found.usage["billed_memory_mb"] == 1024
        assert found.usage["cold"] == cold


def test_an_answer_stays_below_six_megabytes_whatever_the_task_allows(function: LambdaWorker, tmp_path: Path) -> None:
    task = asked(
        tmp_path,
        "SELECT value, md5(CAST(value AS VARCHAR)) AS v FROM generate_series(1, 400000)",
        inline_bytes_max=100 << 20,
    )
    answer = function.handle(event_of(encode_task(task, SECRET)), Context())
    assert len(json.dumps(answer)) < 6_000_000
    found = decode_reply(reply_of(answer), SECRET, task)
    assert found.error is None
    assert sum(page.n_rows for page in found.pages) == 400_000
    assert sum(page.n_bytes for page in found.pages) > 4_000_000
    assert all(page.location is not None for page in found.pages)


def test_a_large_message_is_read_from_where_it_was_put(function: LambdaWorker, tmp_path: Path) -> None:
    task = asked(tmp_path, "SELECT count(*) AS n FROM t")
    place = results_prefix(str(tmp_path), "s1", task.deadline_ms)
    path = Path(place.removeprefix("file://")) / "message"
    path.parent.mkdir(parents=True)
    path.write_bytes(encode_task(task, SECRET))
    answer = function.handle(event_at(f"{place}message"), Context())
    assert decode_reply(reply_of(answer), SECRET, task).error is None
    with pytest.raises(NotFoundError):
        function.handle(event_at(f"{place}gone"), Context())
    with pytest.raises(InvalidError):
        function.handle(event_at("file:///etc/passwd"), Context())


def test_a_task_ends_before_the_function_does(
    function: LambdaWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a machine that is busy with other work the engine's threads get to see late that they are to stop, and other
    # tests' threads run too. A plan that does not stop is still found out: it runs for longer than this.
    monkeypatch.setattr("functions.run_task._LOOKS_MAX", 1500)
    error = ask(function, asked(tmp_path, ENDLESS), Context(left_ms=900)).error
    assert error is not None
    assert error["error"] == "StatementTimeoutError"
    assert ask(function, asked(tmp_path, "SELECT count(*) FROM t")).error is None


def test_what_is_refused_is_raised(function: LambdaWorker, tmp_path: Path) -> None:
    task = asked(tmp_path, "SELECT count(*) FROM t")
    with pytest.raises(ForbiddenError):
        function.handle(event_of(encode_task(task, b"another")), Context())
    with pytest.raises(ForbiddenError, match="expired"):
        function.handle(event_of(encode_task(replace(task, deadline_ms=SystemClock().now_ms() - 1), SECRET)), Context())
    with pytest.raises(InvalidError):
        function.handle({"Records": []}, Context())


def test_a_worker_in_doubt_ends_its_process_before_the_next_task(tmp_path: Path) -> None:
    codes: list[int] = []
    pq.write_table(pa.table({"k": [1]}), tmp_path / "t.parquet")
    function = LambdaWorker(TaskWorkerSettings(str(tmp_path), SECRET), exit=codes.append)
    task = asked(tmp_path, "SELECT count(*) FROM t")
    ask(function, task)
    assert function._runner is not None
    function._runner.broken = True
    with pytest.raises(UnavailableError):
        function.handle(event_of(encode_task(task, SECRET)), Context())
    assert codes == [1]
    function.close()


_PROGRAM = """
import sys, json, resource
class Context:
    memory_limit_in_mb = 1024
    def get_remaining_time_in_millis(self): return 60000
from functions.aws import worker
answer = worker(json.load(sys.stdin), Context())
usage = resource.getrusage(resource.RUSAGE_SELF)
unwanted = ("fastapi", "starlette", "uvicorn", "boto3", "botocore", "numba", "sqlglot", "deltalake", "service")
heavy = [name for name in unwanted if name in sys.modules]
print(json.dumps({"reply": answer["reply"], "cpu_s": usage.ru_utime + usage.ru_stime, "heavy": heavy}))
"""


def test_the_handler_reads_its_settings_and_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    pq.write_table(pa.table({"k": range(100)}), tmp_path / "t.parquet")
    task = asked(tmp_path, "SELECT sum(k) AS s FROM t")
    env = environment(FIRN_LAKE=str(tmp_path), FIRN_TASK_SECRET=SECRET.decode())
    event = json.dumps(event_of(encode_task(task, SECRET)))
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=event,
        capture_output=True,
        text=True,
        env=env | {"PYTHONPATH": str(Path.cwd())},
        check=True,
    )
    found = json.loads(done.stdout)
    reply = decode_reply(b64decode(found["reply"]), SECRET, task)
    assert reply.error is None
    assert found["heavy"] == []
    print("CPU seconds to the first row:", found["cpu_s"])
