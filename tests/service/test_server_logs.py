"""What real servers and workers log: one JSON object a line, with ids, and nothing that is anybody's secret."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.firn import environment, program

TRACE = "0af7651916cd43dd8448eb211c80319c"
HUSH = "hush"
"""Part of everything that no line may have."""


@contextmanager
def running(log: Path, *arguments: str, **variables: str) -> Iterator[str]:
    """Run a program, its standard error in ``log``; yield its URL."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [program(), *arguments], env=environment(**variables), stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on "), line
        yield line.split()[-1]
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture(scope="module", params=["", "1"], ids=["as it comes", "with SQL"])
def logs(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Path, Path, bool]:
    """The logs of a server and a worker that were told many secrets; whether SQL is logged."""
    folder = tmp_path_factory.mktemp("logs")
    lake = ("--lake", str(folder / "lake"), "--port", "0")
    secrets = {
        "FIRN_TASK_SECRET": f"{HUSH} task of this deployment only",
        "AWS_ACCESS_KEY_ID": f"{HUSH}key", "AWS_SECRET_ACCESS_KEY": f"{HUSH}aws",
        "FIRN_LOG_SQL": request.param,
    }  # fmt: skip
    with ExitStack() as stack:
        worker = stack.enter_context(running(folder / "worker.log", "worker", *lake, **secrets))
        url = stack.enter_context(running(folder / "serve.log", "serve", *lake, FIRN_FUNCTIONS=worker, **secrets))
        headers = {"Authorization": f"Bearer firn_{HUSH}", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        client = stack.enter_context(httpx.Client(base_url=url, timeout=60, trust_env=False, headers=headers))
        talk(client, f"'{HUSH} literal'" if not request.param else "'told'")
    return folder / "serve.log", folder / "worker.log", bool(request.param)


def talk(client: httpx.Client, literal: str) -> None:
    def sql(text: str, **members: Any) -> int:
        return client.post("/v1/sql", json={"sql": text, **members}).status_code

    assert sql("CREATE TABLE t (g VARCHAR, n BIGINT) USING delta") == 200
    assert client.post("/v1/tables/default.t/rows", json=[{"g": f"{HUSH} row", "n": 1}]).status_code == 200
    assert client.post("/v1/tables/default.t/rows", json=[{"g": 1, "n": f"{HUSH} row"}]).status_code == 400
    assert sql(f"INSERT INTO t SELECT {literal}, value FROM generate_series(1, 1000)") == 200
    assert sql("OPTIMIZE t") == 200
    assert sql(f"SELECT n,\n count(*)\n FROM t\n WHERE g = {literal} GROUP BY n", functions="fan-out") == 200
    assert sql("SELECT count(*) FROM t WHERE g = $1", params=[f"{HUSH} parameter"]) == 200
    assert sql(f"SELECT CAST({literal} AS BIGINT) + n FROM t") == 400
    assert sql(f"SELEKT {literal}") == 400
    assert sql(f"SELECT {literal[:-1]}") == 400


def test_every_line_is_an_object_and_none_has_a_secret(logs: tuple[Path, Path, bool]) -> None:
    for log in logs[:2]:
        assert HUSH not in log.read_text()
        for line in lines(log):
            assert {"time", "level", "logger", "message"} <= line.keys()


def test_a_statement_has_one_line_with_its_ids_its_outcome_and_its_cost(logs: tuple[Path, Path, bool]) -> None:
    told = [line for line in lines(logs[0]) if line["logger"] == "firnline.statements"]
    assert len({line["statement_id"] for line in told}) == len(told) == 8
    assert all(line["request_id"] and line["trace_id"] == TRACE for line in told)
    assert [line.get("error") for line in told].count("SqlError") >= 2
    [fanned] = [line for line in told if line.get("cost_usd")]
    assert fanned["outcome"] == "succeeded"
    assert fanned["rows"] == 1000
    assert fanned["tasks"] >= 1


def test_a_task_has_one_line_that_names_its_statement_and_trace(logs: tuple[Path, Path, bool]) -> None:
    [fanned] = [line for line in lines(logs[0]) if line.get("cost_usd")]
    ran = [line for line in lines(logs[1]) if line["message"] == "task"]
    assert len(ran) == fanned["tasks"]
    for line in ran:
        assert line["statement_id"].startswith(fanned["statement_id"])
        assert (line["trace_id"], line["outcome"], line["attempt"]) == (TRACE, "succeeded", 1)
        assert line["task_id"]


def test_sql_is_logged_only_where_that_is_set(logs: tuple[Path, Path, bool]) -> None:
    told = [line.get("sql") for line in lines(logs[0]) if line["logger"] == "firnline.statements"]
    if not logs[2]:
        assert set(told) == {None}
        return
    assert "SELECT count(*) FROM t WHERE g = $1" in told
    assert any(sql and "\n count(*)\n" in sql for sql in told)
