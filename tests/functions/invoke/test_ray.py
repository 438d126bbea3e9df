"""`functions.invoke.ray_`: what differs from the other backends: a Ray of its own, which leaves this process alone.

In processes of their own, since a Ray may be connected to the tests'.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.etcd import free_ports
from tests.support.processes import alive
from tests.support.ray_here import ray_or_skip

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_OPENED = """
import asyncio, signal
from functions.invoke.ray_ import open_ray
from tests.support.processes import alive, children
from tests.support.task_workers import open_doer

async def main():
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    invoker = await open_ray(open_doer(), concurrency=2)
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    assert invoker.limits.concurrency == 2
    assert await invoker.invoke(b"echo:x", timeout_ms=120_000) == b"x"
    print(*children(), flush=True)
    %s

asyncio.run(main())
"""
_CLOSES = """
    started = children()
    await invoker.close()
    for _ in range(100):
        if not any(map(alive, started)):
            return
        await asyncio.sleep(0.1)
    raise AssertionError("Ray goes on")
"""


def _command(then: str) -> list[str]:
    ray_or_skip()
    return [sys.executable, "-W", "error", "-c", _OPENED % then.strip()]


def test_it_leaves_signals_alone_and_ends_what_it_started() -> None:
    found = subprocess.run(_command(_CLOSES), capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip()


def test_no_ray_outlives_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen(_command("await asyncio.sleep(300)"), stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    line = parent.stdout.readline()
    started = list(map(int, line.split()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert started
    until = time.monotonic() + 30
    while any(_runs(pid) for pid in started) and time.monotonic() < until:
        time.sleep(0.1)
    assert [pid for pid in started if _runs(pid)] == []


def _runs(pid: int) -> bool:
    """Whether a process runs; dead ones that nobody reaped yet do not."""
    try:
        return alive(pid) and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# A cluster elsewhere, by Ray's client

_ELSEWHERE = """
import asyncio, sys
from functions.invoke.open import InvokerOptions, open_invoker
from storage.clock import SystemClock
from storage.errors import StatementTimeoutError, UnavailableError
from tests.support.processes import children
from tests.support.task_workers import open_doer

async def main():
    invoker = await open_invoker(sys.argv[1], open_doer(), SystemClock(), InvokerOptions())
    assert not children(), "no Ray of our own"
    assert invoker.limits.concurrency == 2
    texts = [b"echo:%d" % number for number in range(6)]
    replies = await asyncio.gather(*(invoker.invoke(each, timeout_ms=120_000) for each in texts))
    assert replies == [b"%d" % number for number in range(6)]
    large = b"x" * 3_000_000
    assert await invoker.invoke(b"echo:" + large, timeout_ms=60_000) == large
    for _ in range(2):
        try:
            await invoker.invoke(b"sleep:60", timeout_ms=1500)
        except StatementTimeoutError:
            pass
        else:
            raise AssertionError("nobody stopped it")
    try:
        await invoker.invoke(b"die", timeout_ms=60_000)
    except UnavailableError:
        pass
    else:
        raise AssertionError("a worker that is dead answered")
    assert await invoker.invoke(b"echo:after", timeout_ms=60_000) == b"after"
    await invoker.close()
    again = await open_invoker(sys.argv[1], open_doer(), SystemClock(), InvokerOptions())
    assert await again.invoke(b"echo:again", timeout_ms=60_000) == b"again"
    await again.close()

asyncio.run(main())
"""


@contextmanager
def _cluster(folder: Path, variables: dict[str, str]) -> Iterator[str]:
    """Run the head of a cluster of two cores; yield its address for clients."""
    ray_or_skip()
    client, *others = free_ports(8)
    names = ("--port", "--node-manager-port", "--object-manager-port", "--runtime-env-agent-port",
             "--dashboard-agent-grpc-port", "--dashboard-agent-listen-port", "--metrics-export-port")  # fmt: skip
    ports = [f"{name}={port}" for name, port in zip(names, others, strict=True)]
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=2", *ports,
               f"--ray-client-server-port={client}", "--include-dashboard=false", "--disable-usage-stats",
               "--object-store-memory=200000000", f"--temp-dir={folder}"]  # fmt: skip
    with (folder / "output").open("wb") as output:
        head = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **variables})
    try:
        _until_there(head, folder / "output", client)
        yield f"ray://{_own_address(folder / 'output')}:{client}"
    finally:
        started = _below(head.pid)
        head.terminate()
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            head.kill()
            head.wait()
        for pid in filter(_runs, started):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _until_there(head: subprocess.Popen[bytes], output: Path, port: int) -> None:
    until = time.monotonic() + 120
    while True:
        assert head.poll() is None, output.read_text()
        assert time.monotonic() < until, output.read_text()
        if "Ray runtime started" in output.read_text():
            with suppress(OSError):
                socket.create_connection((_own_address(output), port), 1).close()
                return
        time.sleep(0.2)


def _own_address(output: Path) -> str:
    """Return where the cluster says that it is: its server for clients listens nowhere else."""
    found = re.search(r"Local node IP: \S*?([0-9.]{7,})", output.read_text())
    assert found is not None
    return found[1]


def _below(pid: int) -> list[int]:
    """Return all that a process has started, and what these have."""
    found = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, thread.read_text().split()):
            found += [child, *_below(child)]
    return found


@pytest.mark.parametrize("guarded", [False, True], ids=["open", "with a token"])
def test_tasks_run_on_a_cluster_elsewhere(guarded: bool) -> None:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    variables = {**(token if guarded else {"RAY_AUTH_MODE": "disabled"}), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    # Ray's sockets are below it, and a socket's path has 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder, _cluster(Path(folder), variables) as address:
        found = subprocess.run(
            [sys.executable, "-W", "error", "-c", _ELSEWHERE, address],
            capture_output=True, text=True, timeout=300, env={**os.environ, **variables},
        )  # fmt: skip
    assert found.returncode == 0, found.stderr


def test_a_cluster_that_is_not_there_is_named() -> None:
    ray_or_skip()
    (port,) = free_ports(1)
    command = [sys.executable, "-c", _ELSEWHERE, f"ray://127.0.0.1:{port}"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert f"UnavailableError: Ray does not start, or is not there address=ray://127.0.0.1:{port}" in found.stderr
