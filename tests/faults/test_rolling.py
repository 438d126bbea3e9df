"""Servers and the log replaced one after another under load: nothing acknowledged is lost, nobody turned away."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from storage.errors import FencedError, OverloadedError, UnavailableError
from tests.support.moto import free_port
from tests.support.write_kill import judge_lake
from tests.support.write_load import TABLES, Load, Notes, Table, create_tables, load_history
from tests.support.write_servers import HttpTarget, Program

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.anyio]

TRIES = 40
PAUSE_S = 0.05
N_CUT_MAX = 2


@dataclass
class Balanced:
    """A `tests.support.write_load.Target` of several servers: who is turned away, with nothing done, asks another."""

    targets: Sequence[HttpTarget]
    n_again: int = 0
    gave_up: list[str] = field(default_factory=list)
    _turn: Any = field(default_factory=itertools.count)

    async def sql(self, sql: str, key: str | None = None) -> list[tuple[Any, ...]]:
        return await self._ask(lambda target: target.sql(sql, key))

    async def ingest(self, table: Table, rows: Sequence[dict[str, Any]], key: str) -> None:
        await self._ask(lambda target: target.ingest(table, rows, key))

    async def _ask(self, ask: Callable[[HttpTarget], Awaitable[Any]]) -> Any:
        for n_left in reversed(range(TRIES)):
            target = self.targets[next(self._turn) % len(self.targets)]
            try:
                return await ask(target)
            except (ConnectionRefusedError, UnavailableError, OverloadedError, FencedError) as error:
                if not n_left:
                    self.gave_up.append(str(error))
                    raise
                self.n_again += 1
                await asyncio.sleep(PAUSE_S)
        raise AssertionError("unreachable")


async def stop(program: Program) -> None:
    """End a program as an upgrade does. It must end by itself, and well."""
    process = program.process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 30) == 0, program.output.read_text()[-2000:]
    program.process = None


async def serve_anew(programs: dict[str, Program]) -> None:
    """Replace the servers, one after the other."""
    for name in ("a", "b"):
        await stop(programs[name])
        programs[name].start()
        await programs[name].wait()


async def hand_over(programs: dict[str, Program]) -> None:
    """Replace the log service: the new one waits until the old one ends."""
    new = Program("wal", programs["wal"].lake, free_port())
    old, programs["wal"] = programs["wal"], new
    programs["old"] = old
    new.start()
    await new.wait()
    await stop(old)


@pytest.mark.parametrize("change", [serve_anew, hand_over], ids=lambda change: change.__name__)
async def test_programs_are_replaced_under_load_and_nobody_notices(
    change: Callable[[dict[str, Program]], Awaitable[None]], tmp_path: Path
) -> None:
    lake, seed = tmp_path / "lake", 20261121
    lake.mkdir()
    programs = {"wal": Program("wal", lake, free_port())}
    programs |= {name: Program("serve", lake, free_port()) for name in ("a", "b")}
    notes = Notes(lake.with_suffix(".notes"))
    try:
        async with AsyncExitStack() as stack:
            for each in programs.values():
                each.start()
                await each.wait()
            clients = [
                await stack.enter_async_context(
                    httpx.AsyncClient(
                        base_url=f"http://127.0.0.1:{programs[name].port}", timeout=30, trust_env=False,
                        # One that is kept may be closed just as it is used, and nobody can tell what came of that.
                        limits=httpx.Limits(max_keepalive_connections=0),
                    )
                )
                for name in ("a", "b")
            ]  # fmt: skip
            target = Balanced([HttpTarget(client) for client in clients])
            await create_tables(target, TABLES)
            load, over = Load(target, notes, 1, seed, pause_s=0.01), asyncio.Event()
            working = asyncio.create_task(load.work(4, over))
            await asyncio.sleep(random.Random(seed).uniform(0.5, 1.0))
            before = load.n_asked
            await change(programs)
            assert load.n_asked > before
            await asyncio.sleep(0.5)
            over.set()
            await working
            assert target.gave_up == []
            for name in ("a", "b", "wal"):
                await stop(programs[name])
    finally:
        notes.close()
        for each in programs.values():
            each.end()
    cut = load_history(lake.with_suffix(".notes")).failures
    # A connection that is made in the very moment in which a port closes is reset by the kernel.
    assert all(each.startswith("OSError: ReadError") for each in cut), cut
    assert sum(cut.values()) <= N_CUT_MAX
    verdict = await judge_lake(lake, TABLES, {})
    assert verdict.problems == {}
    assert verdict.faults == []
    assert (verdict.lost, verdict.doubled) == (0, 0)
    assert verdict.found == verdict.acknowledged > 10
