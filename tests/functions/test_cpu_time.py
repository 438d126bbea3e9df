"""CPU time is charged to the work that used it, though others run on the same loop."""

from __future__ import annotations

import asyncio
import time

import pytest

from functions.cpu_time import charging, cpu_s, in_thread, metered

pytestmark = pytest.mark.anyio


def burn(seconds: float) -> None:
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass


async def work(steps: int, step_s: float, *, threads: bool = False, tasks: bool = False) -> float:
    before_s = cpu_s()

    async def one() -> None:
        await asyncio.sleep(0.001)
        if threads:
            await in_thread(burn, step_s)
        else:
            burn(step_s)

    if tasks:
        await asyncio.gather(*(one() for _ in range(steps)))
    else:
        for _ in range(steps):
            await one()
    return cpu_s() - before_s


@pytest.mark.parametrize(("threads", "tasks"), [(False, False), (True, False), (False, True), (True, True)])
async def test_each_is_charged_what_it_alone_uses(threads: bool, tasks: bool) -> None:
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(charging)
    try:
        works = [metered(work(5, step_s, threads=threads, tasks=tasks)) for step_s in (0.002, 0.01)]
        small_s, large_s = await asyncio.gather(*works)
    finally:
        loop.set_task_factory(before)
    assert 0.010 <= small_s < 0.040
    assert 0.050 <= large_s < 0.090


async def test_a_cancelled_work_sees_its_cancellation_and_what_it_raises_comes_out() -> None:
    seen = []

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    task = asyncio.create_task(metered(waits()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await metered(fails())


async def test_unmetered_the_process_is_charged() -> None:
    before_s = cpu_s()
    await in_thread(burn, 0.01)
    assert cpu_s() - before_s >= 0.01
