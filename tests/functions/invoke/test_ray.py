"""`functions.invoke.ray_`: what differs from the other backends: a Ray of its own, which leaves this process alone.

In processes of their own, since a Ray may be connected to the tests'.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

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
