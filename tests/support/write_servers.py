"""Real ``firn serve``, ``firn wal`` and ``firn compact --watch`` on one lake, killed under clients over HTTP."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx

from firnline.problem import error_of
from tests.support.firn import environment, program
from tests.support.moto import free_port
from tests.support.write_kill import judge_lake
from tests.support.write_load import TABLES, Load, Notes, Table, create_tables
from tests.support.write_verdict import Verdict

__all__ = ["SERVER_SCENARIOS", "HttpTarget", "Program", "ServerScenario", "run_server_scenario"]

Name = Literal["serve", "wal", "compact"]
_READY_S = 60.0
# Asks Linux to SIGKILL the program when the process that started it dies, however that happens.
_MORTAL = (
    sys.executable,
    "-ISc",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])",
)


@dataclass(frozen=True)
class ServerScenario:
    """Which programs run on a lake, and which of them is killed."""

    name: str
    programs: tuple[Name, ...]
    victim: Name
    tables: Sequence[Table] = TABLES


SERVER_SCENARIOS = (
    ServerScenario("firn serve", ("serve",), "serve"),
    ServerScenario("firn wal beside firn serve", ("wal", "serve"), "wal"),
    ServerScenario("firn serve beside firn wal", ("wal", "serve"), "serve"),
    ServerScenario("firn compact beside firn serve", ("serve", "compact"), "compact"),
)


@dataclass
class HttpTarget:
    """A `tests.support.write_load.Target` over HTTP."""

    client: httpx.AsyncClient

    async def sql(self, sql: str, key: str | None = None) -> list[tuple[Any, ...]]:
        body = {"sql": sql} | ({"idempotency_key": key} if key else {})
        answer = await self._post("/v1/sql", json=body)
        return [tuple(row) for row in answer["rows"]]

    async def ingest(self, table: Table, rows: Sequence[dict[str, Any]], key: str) -> None:
        path = f"/v1/tables/default.{table.name}/rows"
        await self._post(path, json=list(rows), headers={"Idempotency-Key": key})

    async def _post(self, path: str, **options: Any) -> Any:
        try:
            response = await self.client.post(path, **options)
        except httpx.ConnectError as error:
            raise ConnectionRefusedError(str(error)) from error
        except httpx.TransportError as error:
            raise OSError(f"{type(error).__name__}: {error}") from error
        if response.is_error:
            problem = response.json() if "json" in response.headers.get("content-type", "") else None
            raise error_of(problem, status=response.status_code, headers=response.headers)
        return response.json()


@dataclass
class Program:
    """One program, on the same port however often it is started."""

    name: Name
    lake: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def output(self) -> Path:
        return self.lake.parent / f"{self.name}.log"

    def start(self) -> None:
        """Start it and return at once."""
        command = [program(), self.name, "--lake", str(self.lake)]
        command += ["--watch", "--interval", "1s"] if self.name == "compact" else ["--port", str(self.port)]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*_MORTAL, *command], stdout=output, stderr=output, env=environment(), start_new_session=True
            )

    async def wait(self) -> None:
        """Return once it answers."""
        deadline = time.monotonic() + _READY_S
        async with httpx.AsyncClient(trust_env=False) as client:
            while self.name != "compact" and time.monotonic() < deadline:
                if self.process is None or self.process.poll() is not None:
                    raise RuntimeError(f"firn {self.name} ended:\n{self.output.read_text()[-2000:]}")
                with suppress(httpx.TransportError):
                    if (await client.get(f"http://127.0.0.1:{self.port}/healthz")).is_success:
                        return
                await asyncio.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL it; its own children have to notice."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def end(self) -> None:
        """SIGKILL it and whatever it started."""
        if self.process is not None:
            group = self.process.pid
            self.kill()
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


async def run_server_scenario(
    folder: Path, scenario: ServerScenario, kills: int, seed: int, *, on_kill: Callable[[], None] = lambda: None
) -> Verdict:
    """Run one lake through its kills and return the verdict."""
    lake = folder / f"lake-{seed}"
    programs = {name: Program(name, lake, free_port()) for name in scenario.programs}
    lake.mkdir()
    chance = random.Random(seed)
    notes = Notes(lake.with_suffix(".notes"))
    url = f"http://127.0.0.1:{programs['serve'].port}"
    try:
        for each in programs.values():
            each.start()
            await each.wait()
        async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as client:
            target = HttpTarget(client)
            await create_tables(target, scenario.tables)
            for run in range(1, kills + 1):
                await _kill_once(programs[scenario.victim], Load(target, notes, run, seed, scenario.tables), chance)
                on_kill()
    finally:
        notes.close()
        for each in programs.values():
            each.end()
    return await judge_lake(lake, scenario.tables, {})


async def _kill_once(victim: Program, load: Load, chance: random.Random) -> None:
    """Kill the victim under load, and start it again under load."""
    stop = asyncio.Event()
    load.pause_s = 0.002
    working = asyncio.create_task(load.work(4, stop))
    await asyncio.sleep(chance.uniform(0.2, 1.5))
    victim.kill()
    victim.start()
    await victim.wait()
    await asyncio.sleep(chance.uniform(0, 0.3))
    stop.set()
    await working
