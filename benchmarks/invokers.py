"""Overhead of a task by where it runs: an echo, one after another and eight at once: ``python -m benchmarks.invokers``.

Workers behind a URL and behind Lambda's Invoke are real worker processes behind the test suite's fronts, which cost
about a millisecond themselves.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from functions.invoke import Invoker, InvokerLimits
from functions.invoke.http import HttpInvoker
from functions.invoke.inline import InlineInvoker
from functions.invoke.lambda_ import open_lambda
from functions.invoke.processes import ProcessInvoker, process_settings
from functions.invoke.ray_ import open_ray
from storage.blobs.open import open_blobs
from storage.blobs.s3_options import S3Options
from storage.clock import SystemClock
from storage.stores import Stores
from tests.support.task_fronts import http_front, lambda_front
from tests.support.task_workers import open_doer

N_WORKERS = 2
AT_ONCE = 8
SIZES = (100, 100_000, 4_000_000)


@asynccontextmanager
async def _inline() -> AsyncIterator[Invoker]:
    yield InlineInvoker(open_doer(), InvokerLimits(concurrency=N_WORKERS))


@asynccontextmanager
async def _processes() -> AsyncIterator[Invoker]:
    yield ProcessInvoker(open_doer(), SystemClock(), process_settings(N_WORKERS))


@asynccontextmanager
async def _http() -> AsyncIterator[Invoker]:
    async with http_front(N_WORKERS) as url:
        yield HttpInvoker(url, SystemClock(), concurrency=AT_ONCE)


@asynccontextmanager
async def _lambda() -> AsyncIterator[Invoker]:
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")
    stores = Stores(partial(open_blobs, s3=S3Options(), clock=SystemClock()))
    async with lambda_front(AT_ONCE, stores) as url:
        yield await open_lambda("worker", SystemClock(), endpoint=url, region="us-east-1", concurrency=AT_ONCE)


@asynccontextmanager
async def _ray() -> AsyncIterator[Invoker]:
    yield await open_ray(open_doer(), concurrency=N_WORKERS)


PLACES: dict[str, Callable[[], AbstractAsyncContextManager[Invoker]]] = {
    "inline": _inline, "processes": _processes, "http": _http, "lambda": _lambda, "ray": _ray,
}  # fmt: skip


async def _measure(name: str) -> None:
    started = time.perf_counter()
    async with PLACES[name]() as invoker:
        try:
            await _ask(invoker, b"echo:x")
            print(f"{name:10} first task after {time.perf_counter() - started:.2f} s")
            await asyncio.gather(*(_ask(invoker, b"sleep:0.3") for _ in range(AT_ONCE)))
            for size in SIZES:
                n = max(10, min(500, 20_000_000 // size))
                message = b"echo:" + b"x" * size
                times = sorted([await _timed(invoker, message) for _ in range(n)])
                started = time.perf_counter()
                for _ in range(n // AT_ONCE):
                    await asyncio.gather(*(_ask(invoker, message) for _ in range(AT_ONCE)))
                rate = n // AT_ONCE * AT_ONCE / (time.perf_counter() - started)
                p99 = times[int(len(times) * 0.99)]
                print(
                    f"{name:10} {size:>9,} bytes both ways: p50 {statistics.median(times):8.3f} ms, p99 {p99:8.3f} ms;"
                    f" {AT_ONCE} at once: {rate:8.0f} tasks/s"
                )
        finally:
            await invoker.close()


async def _timed(invoker: Invoker, message: bytes) -> float:
    started = time.perf_counter()
    await _ask(invoker, message)
    return (time.perf_counter() - started) * 1000


async def _ask(invoker: Invoker, message: bytes) -> bytes:
    return await invoker.invoke(message, timeout_ms=60_000)


def main(names: list[str]) -> None:
    """Measure the places named, or all."""
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    for name in names or PLACES:
        asyncio.run(_measure(name))


if __name__ == "__main__":
    main(sys.argv[1:])
