"""A log against a list and a dictionary: appends, retries, crashes, take-overs, sweeps and reads in any order."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storage.blobs.memory import MemoryBlobs
from storage.errors import FencedError, NotFoundError
from storage.log import LogRecord, Position, Receipt
from storage.log.reader import end_of, replay
from storage.log.settings import LogSettings
from storage.log.sweep import sweep
from storage.log.writer import LogWriter
from tests.support.clock import ManualClock
from tests.support.faults import CrashBlobs, SimulatedCrash
from tests.support.logs import LOG, open_test_log, record

T = TypeVar("T")
WINDOW_MS = 1000
SETTINGS = LogSettings(
    flush_interval_ms=0, retry_delay_ms=0, segment_bytes_max=120, journal_bytes_max=500, idempotency_window_ms=WINDOW_MS
)
KEYS = st.none() | st.sampled_from(["k1", "k2", "k3", "k4"])


class LogMachine(RuleBasedStateMachine):
    """``rows`` is the model: what the log holds, in order. ``seen`` is the receipt and the time of each key."""

    @initialize(journaled=st.booleans(), slow=st.booleans())
    def begin(self, journaled: bool, slow: bool) -> None:
        self.settings = replace(SETTINGS, flush_interval_ms=600_000) if journaled and slow else SETTINGS
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.journal = Path(self.folder.name) / "journal" if journaled else None
        self.clock = ManualClock()
        self.store = MemoryBlobs(self.clock)
        self.epoch = 0
        self.count = 0
        self.base = 0
        self.rows: list[str] = []
        self.seen: dict[str, tuple[Receipt, int]] = {}
        self.zombies: list[LogWriter] = []
        self.open()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    def open(self) -> None:
        self.epoch += 1
        self.crash = CrashBlobs(self.store, 0)
        self.writer = self.run(
            open_test_log(self.crash, self.epoch, self.journal, settings=self.settings, clock=self.clock)
        )

    @rule(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=3), key=KEYS)
    def append(self, sizes: list[int], key: str | None) -> None:
        now = self.clock.now_ms()
        texts = [f"{self.count}.{n}" + "x" * size for n, size in enumerate(sizes)]
        self.count += 1
        receipt = self.run(self.writer.append([record(text, key) for text in texts]))
        first, at_ms = self.seen.get(key or "", (None, 0))
        # Past the window a key may be remembered still: a replay counts it from its upload.
        if first is not None and (at_ms > now - WINDOW_MS or receipt.position == first.position):
            assert (receipt.position, receipt.n_records) == (first.position, first.n_records)
            return
        assert receipt.position == Position(self.epoch, len(self.rows))
        self.rows.extend(texts)
        if key is not None:
            self.seen[key] = (receipt, now)

    @rule(n=st.integers(2, 5))
    def append_together(self, n: int) -> None:
        texts = [f"{self.count}.{i}" for i in range(n)]
        self.count += 1

        async def together() -> list[Receipt]:
            return await asyncio.gather(*(self.writer.append([record(text)]) for text in texts))

        positions = [receipt.position.sequence for receipt in self.run(together())]
        assert positions == list(range(len(self.rows), len(self.rows) + n))
        self.rows.extend(texts)

    @rule()
    def reopen(self) -> None:
        self.run(self.writer.close())
        self.open()

    @rule()
    def crash_and_recover(self) -> None:
        """The process ends between two calls: what the journal has is all that is left of the unsent."""
        self.crash._crash_at = max(1, self.crash.n_calls)
        self.crash.n_calls += 1
        self.run(self.writer.close())
        self.open()

    @precondition(lambda self: self.journal is None and len(self.zombies) < 3)
    @rule()
    def take_over(self) -> None:
        self.zombies.append(self.writer)
        self.open()

    @precondition(lambda self: self.zombies)
    @rule()
    def wake_a_zombie(self) -> None:
        zombie = self.zombies.pop()
        try:
            self.run(zombie.append([record("zombie")]))
            raise AssertionError("a zombie was acknowledged")
        except (FencedError, SimulatedCrash):
            pass
        self.run(zombie.close())

    @rule(ms=st.integers(1, 600))
    def let_time_pass(self, ms: int) -> None:
        self.clock.advance(ms)

    @rule(share=st.floats(0, 1))
    def sweep_some(self, share: float) -> None:
        before = int(share * len(self.rows))
        self.base = self.run(sweep(self.store, LOG, Position(0, before), SETTINGS, self.clock)).base
        assert self.base <= before or self.base == 0 or before < self.base <= len(self.rows)

    @rule(share=st.floats(0, 1))
    def read_from_anywhere(self, share: float) -> None:
        start = int(share * len(self.rows))
        try:
            found = self.run(self.read(Position(0, start)))
        except NotFoundError:
            assert start < self.base
            return
        assert [item.record.body.decode() for item in found] == self.rows[start:]

    async def read(self, start: Position | None) -> list[LogRecord]:
        return [item async for item in replay(self.store, LOG, start, tail=self.writer.tail())]

    @invariant()
    def the_log_is_the_model(self) -> None:
        if not hasattr(self, "writer"):
            return
        found = self.run(self.read(None))
        assert [item.record.body.decode() for item in found] == self.rows[self.base :]
        assert [item.position.sequence for item in found] == list(range(self.base, len(self.rows)))
        assert self.writer.next_position.sequence == len(self.rows)

    def teardown(self) -> None:
        if not hasattr(self, "writer"):
            return
        self.run(self.writer.close())
        for zombie in self.zombies:
            self.run(zombie.close())
        assert self.run(end_of(self.store, LOG)).sequence == len(self.rows)
        self.loop.close()
        self.folder.cleanup()


TestLog = LogMachine.TestCase
TestLog.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
