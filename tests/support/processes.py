"""Processes as tests look at them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether a process exists, dead but unreaped ones included."""
    return Path(f"/proc/{pid}").exists()


def children() -> list[int]:
    """Return this process's children."""
    found: list[int] = []
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # the thread has just ended
            found += map(int, (thread / "children").read_text().split())
    return found


async def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait for a condition. Raises `TimeoutError`."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
