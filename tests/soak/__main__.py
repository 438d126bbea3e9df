"""Kill writers and compactors a thousand times, and count what was acknowledged, found, lost and doubled.

    make soak KILLS=1000 SEED=1

Each lake is killed a few dozen times and then judged; several lakes run at once. Ends with 1 unless nothing was lost,
doubled or otherwise wrong. A lake with a fault is kept, and its seed is named.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.support.write_kill import SCENARIOS, Scenario, run_scenario
from tests.support.write_process import fork_server
from tests.support.write_servers import SERVER_SCENARIOS, ServerScenario, run_server_scenario
from tests.support.write_verdict import Verdict

KILLS_EACH_LAKE = 20
SERVER_KILLS_EACH_LAKE = 8
SERVERS_EVERY = 5
"""One lake in so many runs the real programs, whose starts take seconds."""


@dataclass
class _Soak:
    """What is done so far, shared by the threads."""

    kills_wanted: int
    folder: Path
    started_s: float = field(default_factory=time.monotonic)
    kills: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def lake(self, scenario: Scenario | ServerScenario, seed: int, kills: int) -> None:
        """Run one lake and add its verdict."""
        folder = Path(tempfile.mkdtemp(prefix="soak-", dir=self.folder))
        count = partial(self._count, scenario.name)
        try:
            if isinstance(scenario, Scenario):
                verdict = run_scenario(fork_server(), folder, scenario, kills, seed, on_kill=count)
            else:
                verdict = asyncio.run(run_server_scenario(folder, scenario, kills, seed, on_kill=count))
        except Exception as error:
            verdict = Verdict()
            verdict.problems[f"the lake could not be judged: {type(error).__name__}: {error}"[:500]] += 1
        with self.lock:
            self.verdicts.setdefault(scenario.name, Verdict()).add(verdict)
            if not verdict.good:
                self.broken.append(f"{scenario.name}, seed {seed}, {folder}")
                _say("")
                for fault in verdict.faults[:5]:
                    _say(f"FAULT {scenario.name}, seed {seed}: {fault.kind} {fault.what}: {fault.detail}")
                for problem, count in verdict.problems.most_common(5):
                    _say(f"PROBLEM {scenario.name}, seed {seed}: {count}× {problem}")
        if verdict.good:
            shutil.rmtree(folder)

    def _count(self, name: str) -> None:
        with self.lock:
            self.kills[name] = self.kills.get(name, 0) + 1
            done = sum(self.kills.values())
            if sys.stderr.isatty() or done % 25 == 0:
                total = Verdict()
                for verdict in self.verdicts.values():
                    total.add(verdict)
                line = (
                    f"{done} of {self.kills_wanted} kills, {time.monotonic() - self.started_s:.0f} s: acknowledged "
                    f"{total.acknowledged}, found {total.found}, lost {total.lost}, doubled {total.doubled}"
                )
                _say(line, again=True)

    def report(self) -> bool:
        """Print the table; return whether all is well."""
        _say("")
        print(
            f"{'scenario':<40} {'kills':>6} {'acknowledged':>13} {'found':>8} {'lost':>5} {'doubled':>8} {'wrong':>6}"
        )
        total = Verdict()
        for name, verdict in self.verdicts.items():
            total.add(verdict)
            print(_row(name, self.kills.get(name, 0), verdict))
        print(_row("all", sum(self.kills.values()), total))
        for line in self.broken:
            print(f"kept: {line}")
        return total.good and total.acknowledged > 0


def _row(name: str, kills: int, verdict: Verdict) -> str:
    wrong = len(verdict.faults) + verdict.problems.total()
    return (
        f"{name:<40} {kills:>6} {verdict.acknowledged:>13} {verdict.found:>8} {verdict.lost:>5} "
        f"{verdict.doubled:>8} {wrong:>6}"
    )


def _say(line: str, *, again: bool = False) -> None:
    tty = sys.stderr.isatty()
    sys.stderr.write(f"\r\x1b[2K{line}" if again and tty else line + "\n" if line or tty else "")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lakes", type=int, default=2, help="that run at once")
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    asked = parser.parse_args(arguments)
    every = [*SCENARIOS, *SERVER_SCENARIOS]
    forked = [each for each in SCENARIOS if asked.only in each.name]
    servers = [each for each in SERVER_SCENARIOS if asked.only in each.name]
    if not forked and not servers:
        parser.error("no such scenario; choose from " + "; ".join(each.name for each in every))
    folder = Path(tempfile.mkdtemp(prefix="firn-soak-"))
    soak = _Soak(asked.kills, folder)
    with ThreadPoolExecutor(asked.lakes) as pool:
        left, number = asked.kills, 0
        while left > 0:
            with_servers = servers and (not forked or number % SERVERS_EVERY == 0)
            chosen = servers if with_servers else forked
            scenario = chosen[(number // SERVERS_EVERY if with_servers and forked else number) % len(chosen)]
            kills = min(SERVER_KILLS_EACH_LAKE if with_servers else KILLS_EACH_LAKE, left)
            pool.submit(soak.lake, scenario, asked.seed * 100_000 + number, kills)
            left, number = left - kills, number + 1
    good = soak.report()
    if good:
        shutil.rmtree(folder)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
