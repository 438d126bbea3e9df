"""`functions.invoke.processes`: what differs from the other backends: processes, their memory, their parent's death."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from functions.invoke.processes import ProcessInvoker, process_settings
from storage.clock import SystemClock
from storage.errors import InvalidError, LimitError, UnavailableError
from tests.support.processes import alive, until
from tests.support.task_workers import Doer, open_doer

pytestmark = pytest.mark.anyio

TIMEOUT_MS = 30_000

_PARENT = """
import asyncio
from functions.invoke.processes import ProcessInvoker, process_settings
from storage.clock import SystemClock
from tests.support.task_workers import open_doer

async def main():
    invoker = ProcessInvoker(open_doer(), SystemClock(), process_settings(1))
    print((await invoker.invoke(b"pid", timeout_ms=30000)).decode(), flush=True)
    await invoker.invoke(b"spin:60", timeout_ms=0)

asyncio.run(main())
"""


async def ask(invoker: ProcessInvoker, message: bytes) -> bytes:
    return await invoker.invoke(message, timeout_ms=TIMEOUT_MS)


async def test_one_process_runs_one_task_after_another() -> None:
    invoker = ProcessInvoker(open_doer(), SystemClock(), process_settings(1))
    pids = {await ask(invoker, b"pid") for _ in range(5)}
    await invoker.close()
    assert len(pids) == 1
    gone = int(pids.pop())
    await until(lambda: not alive(gone))


async def test_processes_are_started_as_tasks_wait_for_them() -> None:
    invoker = ProcessInvoker(open_doer(), SystemClock(), process_settings(3))
    await asyncio.gather(*(ask(invoker, b"sleep:1.5") for _ in range(3)))
    pids = {pid for _ in range(3) for pid in await asyncio.gather(*(ask(invoker, b"pid") for _ in range(3)))}
    await invoker.close()
    assert 1 < len(pids) <= 3


async def test_a_process_past_its_memory_is_killed_and_the_next_task_works() -> None:
    settings = process_settings(1, memory_bytes=300 << 20)
    invoker = ProcessInvoker(open_doer(), SystemClock(), settings)
    pid = int(await ask(invoker, b"pid"))
    with pytest.raises(LimitError, match="more memory") as caught:
        await ask(invoker, b"hold:%d" % (500 << 20))
    assert caught.value.facts["limit"] == "worker_memory_bytes"
    assert await ask(invoker, b"echo:again") == b"again"
    await until(lambda: not alive(pid))
    await invoker.close()


async def test_a_process_killed_from_outside_costs_the_task_that_it_ran() -> None:
    invoker = ProcessInvoker(open_doer(), SystemClock(), process_settings(1))
    pid = int(await ask(invoker, b"pid"))
    asking = asyncio.create_task(ask(invoker, b"sleep:20"))
    await asyncio.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(UnavailableError, match="SIGKILL"):
        await asking
    assert await ask(invoker, b"echo:again") == b"again"
    await invoker.close()


async def test_no_process_outlives_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert parent.stdout is not None
    pid = int(await asyncio.to_thread(parent.stdout.readline))
    assert alive(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    await until(lambda: not alive(pid))


@asynccontextmanager
async def refuses() -> AsyncIterator[Doer]:
    raise InvalidError("there is no secret; set FIRN_TASK_SECRET")
    yield Doer()


async def test_what_a_worker_does_not_open_with_is_told() -> None:
    invoker = ProcessInvoker(refuses, SystemClock(), process_settings(1))
    with pytest.raises(InvalidError, match="FIRN_TASK_SECRET"):
        await ask(invoker, b"echo:x")
    await invoker.close()


class Breaks(Doer):
    """Answers, and is broken then."""

    broken = True


@asynccontextmanager
async def breaks() -> AsyncIterator[Doer]:
    yield Breaks()


async def test_a_process_that_says_it_is_broken_is_replaced() -> None:
    invoker = ProcessInvoker(breaks, SystemClock(), process_settings(1))
    pids = [await ask(invoker, b"pid") for _ in range(3)]
    await invoker.close()
    assert len(set(pids)) == 3
