"""When passes are made: again and again, over the logs that are due; in the background while a lake is open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from service.compaction import (
    Compaction,
    CompactionSettings,
    PassReport,
    compact_lake,
    index_tables,
    lake_shards,
    sweep_left,
    unfolded,
)
from storage.errors import FirnlineError

__all__ = ["background", "due_shards", "watch"]

_log = logging.getLogger("firnline.compaction")
_FAILED_PAUSE_MAX_S = 60.0
_REST_SHARE = 3
"""A pass is followed by a pause of at least so many times its own length."""


async def watch(
    compaction: Compaction,
    settings: CompactionSettings | None = None,
    *,
    stop: asyncio.Event | None = None,
    on_pass: Callable[[PassReport], None] | None = None,
    idle_s: float = math.inf,
) -> None:
    """Make a pass over the logs that are due, every ``interval_s``, until ``stop``, or nothing was due for ``idle_s``.

    Failures are logged and retried.
    """
    settings, stop = settings or CompactionSettings(), stop or asyncio.Event()
    failed_s, active_s = settings.interval_s, compaction.clock.monotonic_s()
    indexed_s = -math.inf
    while not stop.is_set() and compaction.clock.monotonic_s() - active_s < idle_s:
        pause_s, started_s = settings.interval_s, compaction.clock.monotonic_s()
        try:
            due = await due_shards(compaction, settings)
            active_s = compaction.clock.monotonic_s() if due else active_s
            every = started_s - indexed_s >= settings.index_interval_s
            report = PassReport()
            if due:
                report = await compact_lake(compaction, settings, shards=due, every_index=every)
            elif every:
                await index_tables(compaction, (), report, every=True, sweep_left=True)
                await sweep_left(compaction, report)
            indexed_s = started_s if every else indexed_s
            for table, error in report.errors.items():
                _log.warning("compaction of %s failed: %s: %s", table, type(error).__name__, error)
            if due and on_pass is not None:
                on_pass(report)
            failed_s = settings.interval_s
            # A fold of scattered keys writes much of its table anew: the more it costs, the more rows it waits for.
            pause_s = max(pause_s, _REST_SHARE * (compaction.clock.monotonic_s() - started_s))
        except FirnlineError as error:
            _log.warning("compaction failed and is tried again: %s: %s", type(error).__name__, error)
            pause_s, failed_s = failed_s, min(2 * failed_s, max(settings.interval_s, _FAILED_PAUSE_MAX_S))
        except Exception:  # noqa: BLE001
            # A defect; without later passes the log would grow until it takes no more rows.
            _log.exception("compaction met a defect and is tried again")
            pause_s, failed_s = failed_s, min(2 * failed_s, max(settings.interval_s, _FAILED_PAUSE_MAX_S))
        await _wait(stop, pause_s)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


async def due_shards(compaction: Compaction, settings: CompactionSettings) -> list[int]:
    """Return the logs that are to be folded now."""
    marks = await compaction.logs.folded()
    now_ms = compaction.clock.now_ms()
    due = []
    for shard in sorted(await lake_shards(compaction)):
        waiting = await unfolded(compaction, shard, marks.get(shard, 0))
        if waiting.oldest_ms is not None and (
            now_ms - waiting.oldest_ms >= settings.age_s * 1000
            or waiting.n_bytes >= settings.bytes_min
            or waiting.n_segments >= settings.segments_min
        ):
            due.append(shard)
    return due


@asynccontextmanager
async def background(
    compaction: Compaction, settings: CompactionSettings, wrote: Callable[[], bool]
) -> AsyncIterator[None]:
    """Watch while the block runs. Afterwards a pass that runs, or is due by size, gets ``linger_s`` to end.

    A pass that is cut off does no harm: what it began is begun anew by the next.

    Parameters
    ----------
    wrote : whether this process appended rows; who only reads does not stay to fold
    """
    stop = asyncio.Event()
    watching = asyncio.create_task(_watch_later(compaction, settings, stop))
    try:
        yield
    finally:
        stop.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.linger_s):
                await watching
                if wrote():
                    await _last_pass(compaction, settings)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch_later(compaction: Compaction, settings: CompactionSettings, stop: asyncio.Event) -> None:
    # Not at once: a process that runs one statement is gone before.
    await _wait(stop, min(1.0, settings.interval_s))
    await watch(compaction, settings, stop=stop)


async def _last_pass(compaction: Compaction, settings: CompactionSettings) -> None:
    try:
        due = await due_shards(compaction, replace(settings, age_s=math.inf))
        if due:
            await compact_lake(compaction, settings, shards=due, every_index=False)
    except FirnlineError as error:
        _log.warning("compaction at the end failed: %s: %s", type(error).__name__, error)
