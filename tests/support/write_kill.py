"""Processes at work on a lake, killed at random times, and what is left judged.

What was acknowledged is found once: through SQL, after a fold through SQL again, and by deltalake and pyiceberg.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from functions.check import JournalFile, check
from functions.fold_log import fold_all
from service.settings import LogAccess
from storage.errors import FirnlineError
from storage.log import AckMode
from storage.stores import normalize
from tests.support.write_load import TABLES, Table, create_tables, load_history
from tests.support.write_process import EngineTarget, ForkServerContext, Job, Started, kill, open_target, start
from tests.support.write_verdict import Verdict, judge

__all__ = ["SCENARIOS", "Scenario", "judge_lake", "read_outside", "run_scenario"]


@dataclass(frozen=True)
class Scenario:
    """Who works, and who of them is killed.

    victim : ``both`` is one process that writes and folds; otherwise writer and compactor are two, and one is killed
    ack : of every append
    """

    name: str
    victim: Literal["both", "writer", "compactor"]
    ack: AckMode = AckMode.FSYNC
    tables: Sequence[Table] = TABLES
    clients: int = 4


SCENARIOS = (
    Scenario("writer and compactor in one, fsync", "both"),
    Scenario("writer and compactor in one, object", "both", AckMode.OBJECT),
    Scenario("writer, fsync", "writer"),
    Scenario("writer, object", "writer", AckMode.OBJECT),
    Scenario("compactor", "compactor"),
)


@dataclass
class _Crew:
    """The processes of one lake."""

    context: ForkServerContext
    lake: Path
    scenario: Scenario
    seed: int
    run: int = 0
    keeper: Started | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def start_victim(self) -> Started:
        self.run += 1
        victim = self.scenario.victim
        clients = 0 if victim == "compactor" else self.scenario.clients
        return self._start(clients, victim != "writer")

    def start_keeper(self) -> None:
        """The process that is not killed; its runs are numbered apart."""
        victim = self.scenario.victim
        if victim == "both":
            return
        clients = self.scenario.clients if victim == "compactor" else 0
        self.keeper = self._start(clients, victim == "writer")
        self.keeper.wait_ready()

    def change_keeper(self) -> None:
        """Now and then the writer that is not killed begins a new run, so that no history grows long."""
        if self.scenario.victim == "compactor" and self.run % 10 == 0:
            self.stop_keeper()
            self.run += 1
            self.start_keeper()

    def stop_keeper(self) -> None:
        if self.keeper is not None:
            kill(self.keeper)
            self.keeper = None

    def _start(self, clients: int, fold: bool) -> Started:
        job = Job(self.lake, self.run, self.seed, clients, fold, self.scenario.tables, self.settings)
        return start(self.context, job)


def run_scenario(
    context: ForkServerContext,
    folder: Path,
    scenario: Scenario,
    kills: int,
    seed: int,
    *,
    longest_s: float = 1.2,
    on_kill: Callable[[], None] = lambda: None,
) -> Verdict:
    """Run one lake through its kills and return the verdict."""
    lake = folder / f"lake-{seed}"
    lake.mkdir()
    settings = {"log": LogAccess(ack=scenario.ack)}
    asyncio.run(_prepare(lake, scenario, settings))
    crew = _Crew(context, lake, scenario, seed, settings=settings)
    chance = random.Random(seed)
    crew.start_keeper()
    try:
        for _ in range(kills):
            crew.change_keeper()
            victim = crew.start_victim()
            # One in eight is killed while it recovers.
            if chance.random() < 0.125:
                time.sleep(chance.uniform(0, 0.1))
            else:
                victim.wait_ready()
                time.sleep(chance.uniform(0.02, longest_s))
            kill(victim)
            on_kill()
    finally:
        crew.stop_keeper()
    return asyncio.run(judge_lake(lake, scenario.tables, settings))


async def _prepare(lake: Path, scenario: Scenario, settings: dict[str, Any]) -> None:
    async with open_target(lake, "prepare", **settings) as target:
        await create_tables(target, scenario.tables)


async def judge_lake(lake: Path, tables: Sequence[Table], settings: dict[str, Any]) -> Verdict:
    """Judge what is left of a lake: nobody works on it any more."""
    story = load_history(lake.with_suffix(".notes"))
    async with open_target(lake, "judge", **settings) as target:
        verdict = await judge(story, target, tables)
        problems = verdict.problems
        await _fold(target, problems)
        for table in tables:
            after = sorted(await target.sql(f"SELECT * FROM {table.name}"))
            _compare(problems, f"{table.name} after the fold", after, verdict.rows[table.name])
            _compare(problems, f"{table.name} outside", await read_outside(target, table), verdict.rows[table.name])
        await _check(target, lake, problems)
    return verdict


async def _fold(target: EngineTarget, problems: Counter[str]) -> None:
    engine = target.engine
    shards = {entry.managed.shard for entry in await engine.tables.all() if entry.managed is not None}
    try:
        for shard in shards:
            await (await engine.logs.log(shard)).flush()
        report = await fold_all(engine.stores, engine.logs, engine.tables, engine.clock)
    except FirnlineError as error:
        problems[f"the last fold: {error}"] += 1
    else:
        problems.update(f"the last fold of {table}: {error}" for table, error in report.errors.items())


def _compare(problems: Counter[str], what: str, found: list[Any], wanted: list[Any]) -> None:
    if found != wanted:
        missing, more = Counter(wanted) - Counter(found), Counter(found) - Counter(wanted)
        problems[
            f"{what}: {missing.total()} rows missing, {more.total()} too many: {list(missing)[:3]} {list(more)[:3]}"
        ] += 1


async def _check(target: EngineTarget, lake: Path, problems: Counter[str]) -> None:
    engine = target.engine
    report = await check(
        engine.stores,
        engine.kv,
        engine.clock,
        normalize(str(lake)),
        deep=True,
        journals=lambda shard, state: JournalFile(
            lake / "_firnline" / "log" / str(shard) / "journal",
            f"{state.shards.lake_id if state.shards else ''}/{shard}",
        ),
    )
    problems.update(f"firn check: {each}" for each in report.findings if each.severity == "error")


async def read_outside(target: EngineTarget, table: Table) -> list[tuple[Any, ...]]:
    """Read a table as another engine does."""
    entry = await target.engine.tables.get("default", table.name)

    def read() -> list[dict[str, Any]]:
        if table.format == "delta":
            from deltalake import DeltaTable

            return DeltaTable(entry.location).to_pyarrow_table().to_pylist()  # type: ignore[no-any-return]
        from pyiceberg.table import StaticTable

        return StaticTable.from_metadata(entry.source).scan().to_arrow().to_pylist()

    return sorted(tuple(row.values()) for row in await asyncio.to_thread(read))
