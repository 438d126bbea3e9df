"""The image, run as it is deployed: locked up, as each of its roles, and under AWS's emulator."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from functions.exchange import decode_page
from functions.invoke.lambda_event import event_of, reply_of
from functions.tasks import decode_reply, encode_task
from tests.support.docker import IMAGE, Engine, engine_or_skip, free_port
from tests.support.task_plans import stages_of, task_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
USER = 10001
SECRET = "of this test and of its containers"
SLOW = "SELECT count(*) AS n FROM generate_series(1, 300000000) WHERE value % 7 = 1"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with engine_or_skip() as found:
        yield found


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A folder that containers mount at its own path, and their user may write to."""
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    folder = tmp_path / "lake"
    folder.mkdir()
    os.chown(folder, USER, USER)
    return folder


def deployed() -> Iterator[Any]:
    """Yield what runs in containers: (port, or 0 where it ends by itself; path to ask; command; health command)."""
    wal = (ROOT / "terraform/modules/wal/main.tf").read_text()
    [port] = re.findall(r"^  port += (\d+)$", wal, re.MULTILINE)
    command, health = (
        json.loads(re.findall(rf"^  {name} += (\[.*\])$", wal, re.MULTILINE)[0]
                   .replace("tostring(local.port)", f'"{port}"').replace("${local.port}", port))
        for name in ("command", "health_command")
    )  # fmt: skip
    yield pytest.param(int(port), "/healthz", command, health, id="terraform-wal")
    services = yaml.safe_load((ROOT / "localstack/compose.yaml").read_text())["services"]
    for name in ("wal", "worker", "endpoint"):
        command, health = services[name]["command"], services[name]["healthcheck"]["test"][1:]
        port = command[command.index("--port") + 1]
        yield pytest.param(int(port), "/readyz", command, health, id=f"compose-{name}")
    for path in sorted((ROOT / "infra/knative/base").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            for container in _containers(document):
                if container.get("image") == "firnline":
                    [*ports] = container.get("ports", [])
                    port = ports[0]["containerPort"] if ports else 0
                    command = [*container.get("command", []), *container.get("args", [])]
                    yield pytest.param(port, "/healthz", command, [], id=f"knative-{path.stem}")


def _containers(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        yield from node.get("containers", [])
        node = list(node.values())
    for each in node if isinstance(node, list) else ():
        yield from _containers(each)


def mounted(lake: Path, **variables: str) -> list[str]:
    options = ["--volume", f"{lake}:{lake}", "--env", f"FIRN_LAKE={lake}"]
    for name, value in variables.items():
        options += ["--env", f"{name}={value}"]
    return options


def post(port: int, path: str, body: Any) -> Any:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert answer.status < 300, text
    return json.loads(text)


def sql(port: int, text: str, **members: Any) -> Any:
    return post(port, "/v1/sql", {"sql": text, **members})


def test_nothing_is_compiled_at_run_time_with_a_root_that_is_read_only(engine: Engine) -> None:
    smoke = ("--volume", f"{ROOT}/infra/image/smoke.py:/smoke.py:ro")
    for user in (USER, 993):  # Lambda runs it as a user of its own
        done = engine.run("python", "/smoke.py", options=(*smoke, "--user", f"{user}:{user}"))
        assert (done.returncode, done.stderr) == (0, "")
        assert "kernels for x86-64-v3" in done.stdout or "kernels for generic" in done.stdout
        print(done.stdout)


def test_modules_are_loaded_from_bytecode_that_the_build_compiled(engine: Engine) -> None:
    for modules in ("service.aws, functions.aws", "firnline.cli.app, service.server, service.task_server"):
        done = engine.run("python", "-v", "-c", f"import {modules}")
        loaded = re.findall(r"^# code object from '?(/[^'\n]*?)'?$", done.stderr, re.MULTILINE)
        assert len(loaded) > 300
        assert [each for each in loaded if not each.endswith(".pyc")] == []
        assert "# wrote" not in done.stderr


def test_the_image_says_what_it_is_and_holds_no_secret_of_its_build(engine: Engine) -> None:
    (found,) = json.loads(engine.docker("image", "inspect", IMAGE).stdout)
    config = found["Config"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Volumes"] == {"/tmp": {}}
    assert config.get("Healthcheck") is None
    assert config["Labels"]["org.opencontainers.image.title"] == "Firnline"
    assert len(config["Labels"]["org.opencontainers.image.revision"]) >= 7
    listed = engine.run("sh", "-c", "ls /run/secrets /build /root/.cache /root/.config 2>/dev/null; stat -c %a /tmp")
    assert listed.stdout.split() == ["1777"]
    history = engine.docker("history", "--no-trunc", IMAGE).stdout.lower()
    assert not [word for word in ("password", "token", "://", "index-url") if word in history]


def test_a_command_may_leave_out_firn_and_a_handler_needs_lambda(engine: Engine) -> None:
    assert "firn serve" in engine.run("serve", "--help").stdout
    assert engine.run("firn", "wal", "--help").stdout == engine.run("wal", "--help").stdout
    assert engine.run("python", "-c", "print(1)").stdout == "1\n"
    done = engine.run("functions.aws.worker")
    assert done.returncode == 2
    assert "AWS_LAMBDA_RUNTIME_API is not set" in done.stderr


def test_an_empty_volume_holds_a_lake(engine: Engine) -> None:
    volume = f"firnline-test-{free_port()}"
    options = ("--volume", f"{volume}:/var/lib/firnline", "--env", "FIRN_LAKE=/var/lib/firnline/lake")
    try:
        for statement, said in (("CREATE TABLE t AS SELECT 41 + 1 AS k", ""), ("SELECT k FROM t", "42")):
            done = engine.run("firn", "sql", statement, "--format", "csv", options=options)
            assert not done.returncode, done.stderr
            assert said in done.stdout
    finally:
        engine.docker("volume", "rm", "--force", volume)


def test_the_endpoint_answers_sql_and_a_statement_is_finished_before_it_ends(engine: Engine, lake: Path) -> None:
    port = free_port()
    with engine.running("firn", "serve", "--port", str(port), port=port, options=mounted(lake)) as server:
        server.until_ready()
        sql(port, "CREATE TABLE t AS SELECT value AS k FROM generate_series(1, 1000)")
        assert sql(port, "SELECT sum(k) FROM t")["rows"] == [[500500]]
        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.append(sql(port, SLOW)))
        asking.start()
        time.sleep(0.5)
        assert server.terminate() == 0
        asking.join()
    assert [each["rows"] for each in answers] == [[[42857143]]]


def test_workers_run_tasks_of_the_endpoint(engine: Engine, lake: Path) -> None:
    port, worker_port = free_port(), free_port()
    with engine.running("worker", port=worker_port, options=mounted(lake, FIRN_TASK_SECRET=SECRET, PORT=str(worker_port))) as worker:  # fmt: skip  # noqa: E501
        worker.until_ready()
        options = mounted(lake, FIRN_TASK_SECRET=SECRET, FIRN_FUNCTIONS=f"http://127.0.0.1:{worker_port}")
        with engine.running("serve", "--port", str(port), port=port, options=options) as server:
            server.until_ready()
            sql(port, "CREATE TABLE t AS SELECT value AS k, value % 7 AS g FROM generate_series(1, 100000)")
            answer = sql(port, "SELECT g, count(*) FROM t GROUP BY g ORDER BY g", functions="fan-out")
            assert [row[1] for row in answer["rows"]] == [14285, 14286, 14286, 14286, 14286, 14286, 14285]
            assert answer["receipt"]["tasks"] >= 1, answer["receipt"]
        assert worker.terminate() == 0


def test_the_log_takes_rows_for_the_endpoint(engine: Engine, lake: Path) -> None:
    port, log_port = free_port(), free_port()
    journal = ("--volume", f"{lake}:/journal")
    with engine.running("firn", "wal", "--port", str(log_port), "--data-dir", "/journal/j", port=log_port,
                        options=[*mounted(lake), *journal]) as log:  # fmt: skip
        log.until_ready()
        with engine.running("serve", "--port", str(port), port=port, options=mounted(lake, FIRN_LOG_OWN="0")) as server:
            server.until_ready()
            sql(port, "CREATE TABLE t (k BIGINT)")
            receipt = post(port, "/v1/tables/default.t/rows", [{"k": 1}, {"k": 2}])
            assert sql(port, "SELECT count(*) FROM t")["rows"] == [[2]], receipt
            assert server.terminate() == 0
        assert log.terminate() == 0


def test_the_worker_runs_as_a_lambda_function(engine: Engine, lake: Path) -> None:
    pq.write_table(pa.table({"k": range(1000)}), lake / "t.parquet")
    task = task_of(lake, payload=stages_of(lake, "SELECT count(*) AS n FROM t", 1).stages[0].plan, deadline_ms=0)
    event = event_of(encode_task(task, SECRET.encode()))
    answer, started_s = invoked(engine, "functions.aws.worker", event, mounted(lake, FIRN_TASK_SECRET=SECRET))
    reply = decode_reply(reply_of(answer), SECRET.encode(), task)
    [page] = reply.pages
    assert page.data is not None
    assert [batch.to_pylist() for batch in decode_page(page, page.data)] == [[{"n": 1000}]]
    print(f"first answer of the worker {started_s:.2f} s after the invocation")


def test_the_endpoint_runs_as_a_lambda_function(engine: Engine, lake: Path) -> None:
    token = engine.run("firn", "token", "create", "--role", "admin", options=mounted(lake)).stdout.strip()
    body = b64encode(json.dumps({"sql": "SELECT 1 AS one"}).encode()).decode()
    event = {
        "version": "2.0", "routeKey": "$default", "rawPath": "/v1/sql", "rawQueryString": "", "isBase64Encoded": True,
        "headers": {"content-type": "application/json", "authorization": f"Bearer {token}"}, "body": body,
        "requestContext": {
            "accountId": "1", "apiId": "x", "domainName": "x.lambda-url.eu-central-1.on.aws", "requestId": "r",
            "http": {"method": "POST", "path": "/v1/sql", "protocol": "HTTP/1.1", "sourceIp": "1.2.3.4"},
            "time": "01/Jan/2026:00:00:00 +0000", "timeEpoch": 1767225600000, "stage": "$default",
        },
    }  # fmt: skip
    answer, started_s = invoked(engine, "service.aws.endpoint", event, mounted(lake))
    assert answer["statusCode"] == 200, answer
    assert json.loads(answer["body"])["rows"] == [[1]]
    print(f"first answer of the endpoint {started_s:.2f} s after the invocation")


def test_the_compactor_runs_as_a_lambda_function(engine: Engine, lake: Path) -> None:
    for statement in ("CREATE TABLE t (k BIGINT)", "INSERT INTO t VALUES (1), (2)"):
        done = engine.run("firn", "sql", statement, options=mounted(lake, FIRN_COMPACT="0"))
        assert not done.returncode, done.stderr
    answer, _started_s = invoked(engine, "service.aws.compactor", {"source": "aws.scheduler"}, mounted(lake))
    assert (answer["folded"]["rows"], answer["folded"]["commits"]) == (2, 1), answer


@pytest.mark.parametrize("port, path, command, health", [*deployed()])
def test_the_commands_of_the_deployments_run(
    engine: Engine, lake: Path, port: int, path: str, command: list[str], health: list[str]
) -> None:
    options = [
        *mounted(lake, FIRN_TASK_SECRET=SECRET, PORT=str(port), FIRN_FUNCTIONS="inline"),
        "--tmpfs",
        f"/var/lib/firn:uid={USER}",  # as an orchestrator's volume: the engine gives it the mode of the image's folder
    ]
    if not port:
        assert engine.run(*command, options=options).returncode == 0
        return
    # What other machines reach asks for tokens, and a lake must have one.
    assert engine.run("firn", "token", "create", "--role", "admin", options=options).returncode == 0
    asked = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{port}{path}', timeout=4)"
    with engine.running(*command, options=options, network="none") as server:
        ends_s = time.monotonic() + 60
        while server.execute("python", "-c", asked).returncode:
            assert server.running() and time.monotonic() < ends_s, server.log()
            time.sleep(0.2)
        if health:
            found = server.execute(*health)
            assert (found.returncode, found.stderr) == (0, "")
        assert server.terminate() == 0, server.log()


def test_where_no_engine_can_be_had_the_reason_is_said(tmp_path: Path) -> None:
    script = [str(ROOT / "infra/image/engine.sh")]
    environ = {"PATH": "/usr/bin:/bin", "DOCKER_HOST": "unix:///nonexistent", "FIRNLINE_DOCKER": str(tmp_path / "none")}
    kept = subprocess.run([*script, "--kept", "true"], env=environ, capture_output=True, text=True, check=False)
    assert (kept.returncode, kept.stdout) == (3, "")
    assert kept.stderr == "no Docker engine: none answers, and make image has not built anything here\n"
    if os.getuid() == 0:
        command = ["setpriv", "--reuid", "65534", "--clear-groups", "bash", "-s", "--", "--install", "true"]
        text = Path(script[0]).read_text()
        plain = subprocess.run(command, env=environ, input=text, capture_output=True, text=True, check=False)
        assert (plain.returncode, plain.stderr) == (3, "no Docker engine: none answers, and only root can start one\n")


def test_a_base_of_a_registry_is_named_by_its_digest() -> None:
    done = subprocess.run(
        [str(ROOT / "infra/image/build.sh")], env=os.environ | {"BASE": "python:3.11-slim-bookworm"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "name the base image by its digest" in done.stderr


def invoked(engine: Engine, handler: str, event: Any, options: list[str]) -> tuple[Any, float]:
    """Return what a handler answers under AWS's emulator, and after how many seconds."""
    sys.path.insert(0, str(ROOT / "localstack"))
    try:
        from lambda_rie import EmulatorMissingError, emulator  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    try:
        binary = emulator()
    except EmulatorMissingError as error:
        pytest.skip(str(error))
    port, api = free_port(), free_port()
    addresses = (
        "--runtime-interface-emulator-address",
        f"127.0.0.1:{port}",
        "--runtime-api-address",
        f"127.0.0.1:{api}",
    )
    more = ["--volume", f"{binary}:/rie:ro", "--entrypoint", "/rie", "--env", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE=1769"]
    with engine.running(*addresses, "firn-entrypoint", handler, port=port, options=[*options, *more]) as function:
        ends_s = time.monotonic() + 30
        while not function.get("/"):
            assert function.running() and time.monotonic() < ends_s, function.log()
            time.sleep(0.02)
        started_s = time.monotonic()
        return post(port, "/2015-03-31/functions/function/invocations", event), time.monotonic() - started_s
