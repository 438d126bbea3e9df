"""Tasks of statements that a server runs: told to end by DELETE, by a client that is gone, and by Ctrl-C."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.server import ServeSettings
from service.settings import EngineSettings, FunctionAccess
from tests.support.processes import alive
from tests.support.serving import serving

N_ROWS = 40_000
LONG = (
    "SELECT count(*) FROM parquet('{0}/t/*.parquet') a JOIN parquet('{0}/t/*.parquet') b ON a.v + 1 < b.v + a.v "
    "JOIN parquet('{0}/t/*.parquet') c ON b.v + 1 < c.v + a.v"
)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "t").mkdir()
    for number in range(2):
        rows = pa.table({"v": range(number * N_ROWS, (number + 1) * N_ROWS)})
        pq.write_table(rows, tmp_path / "t" / f"{number}.parquet")
    access = FunctionAccess(place="processes:2", broadcast_bytes=0)
    with serving(ServeSettings(EngineSettings(lake=str(tmp_path), functions=access), port=0)) as found:
        yield found


def task_workers() -> list[int]:
    """Return the processes below this one that run tasks."""
    parents: dict[int, int] = {}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"functions.invoke.process_worker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return [pid for pid in found if os.getpid() in _above(pid, parents)]


def _above(pid: int, parents: dict[int, int]) -> set[int]:
    found: set[int] = set()
    while (pid := parents.get(pid, 0)) and pid not in found:
        found.add(pid)
    return found


def busy() -> bool:
    """Tell whether any process that runs tasks works."""

    def spent() -> dict[int, int]:
        times = {}
        for pid in task_workers():
            try:
                times[pid] = sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
            except OSError:
                continue
        return times

    before = spent()
    time.sleep(0.3)
    after = spent()
    return any(after.get(pid, 0) - ticks > 3 for pid, ticks in before.items())


def until(condition: Any, within_s: float = 20.0) -> None:
    ends_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < ends_s, "not in time"
        time.sleep(0.05)


def pages(folder: Path) -> list[Path]:
    return list(folder.glob("_firnline/results/*/*.arrow"))


def body(folder: Path, **options: Any) -> dict[str, Any]:
    return {"sql": LONG.format(folder), "functions": "fan-out", "timeout_ms": 120_000, **options}


def test_a_statement_that_is_deleted_stops_its_tasks_and_the_next_one_runs(url: str, tmp_path: Path) -> None:
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        started = client.post("/v1/sql", json=body(tmp_path, mode="async")).json()
        until(lambda: task_workers() and busy())
        assert client.delete(f"/v1/statements/{started['statement_id']}").status_code in (200, 202, 204)
        until(lambda: not busy())
        until(lambda: not pages(tmp_path))
        sql = f"SELECT count(*) AS n, sum(v) AS s FROM parquet('{tmp_path}/t/*.parquet') WHERE v >= 0"
        found = client.post("/v1/sql", json={"sql": sql, "functions": "fan-out"}).json()
        assert found["rows"] == [[2 * N_ROWS, N_ROWS * (2 * N_ROWS - 1)]]
        assert found["receipt"]["tasks"] >= 2


def test_a_client_that_is_gone_stops_its_tasks(url: str, tmp_path: Path) -> None:
    with httpx.Client(base_url=url, timeout=5, trust_env=False) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/sql", json=body(tmp_path))
    until(lambda: not busy())
    until(lambda: not pages(tmp_path))


def test_ctrl_c_leaves_no_worker_and_no_page(url: str, tmp_path: Path) -> None:
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        client.post("/v1/sql", json=body(tmp_path, mode="async"))
        until(lambda: task_workers() and busy())
    workers = task_workers()
    [server] = [int(pid) for pid in _children() if b"service.server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(server, signal.SIGINT)
    until(lambda: not any(map(alive, workers)), 40)
    until(lambda: not pages(tmp_path))


def _children() -> list[str]:
    return [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
