"""The compactor: a process of the server's that folds and merges while there is something to fold.

The server looks whether a log is due, and starts it then; it ends when nothing was due for a while, and is started anew
when it dies. Started as ``python -m service.compactor PARENT_PID`` with its settings pickled on standard input, which
stays open: when it ends, the server is gone or wants the compactor to end. Each pass is a line of JSON on standard
output. A compactor that is killed leaves nothing to mend, so nothing waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import pickle
import signal
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from catalog.kv.counted import CountedKV
from catalog.tables import Tables
from functions import tracing
from functions.index.keep import indexes_due
from service.compaction import Compaction, CompactionSettings, PassReport, indexing_of
from service.compaction_watch import due_shards, watch
from service.components import access_policy, open_catalog
from service.coordinate.open import open_jobs
from service.log.open import open_logs
from service.settings import EngineSettings
from storage.blobs.counted import counting
from storage.blobs.open import open_blobs
from storage.clock import Clock, SystemClock
from storage.counts import Counts
from storage.errors import FirnlineError
from storage.stores import Stores

__all__ = ["Compactor", "compactor_process", "main", "open_compaction", "summary"]

_log = logging.getLogger("firnline.compaction")
_PR_SET_PDEATHSIG = 1
_LENGTH = struct.Struct("<I")
_RESTART_S, _RESTART_MAX_S = 0.5, 30.0
_HEALTHY_S = 60.0
_EXIT_S = 5.0
_IDLE_S = 300.0


@asynccontextmanager
async def open_compaction(
    settings: EngineSettings, clock: Clock | None = None, counts: Counts | None = None
) -> AsyncIterator[Compaction]:
    """Open what compaction needs of a lake, without a query engine. Raises `NotFoundError` if there is no lake."""
    if settings.traces:
        tracing.start("compactor")
    clock, counts = clock or SystemClock(), counts or Counts()
    stores = Stores(counting(partial(open_blobs, s3=settings.s3, clock=clock), counts, clock), access_policy(settings))
    kv = CountedKV(await open_catalog(settings, clock, stores), counts, clock)
    logs = open_logs(settings.lake, settings.log, kv, stores, clock)
    try:
        async with open_jobs(settings, stores, kv, clock) as jobs:
            indexing = indexing_of(stores, kv, clock, settings.lake, jobs=jobs)
            parts = (stores, logs, Tables(kv, clock), clock, settings.lake, settings.log.writer)
            yield Compaction(*parts, indexing, jobs)
    finally:
        await logs.close()
        await kv.close()
        await stores.close()


@dataclass
class Compactor:
    """A compactor as the server sees it. ``pid`` is None while none runs."""

    pid: int | None = None
    n_starts: int = 0
    n_passes: int = 0
    last_pass: dict[str, object] | None = None
    counts: Counts = field(default_factory=Counts)


@asynccontextmanager
async def compactor_process(
    settings: EngineSettings, watched: Compaction, compaction: CompactionSettings | None = None,
    counts: Counts | None = None,
) -> AsyncIterator[Compactor]:  # fmt: skip
    """Keep a compactor of the lake running while the block runs and there is something to fold.

    Parameters
    ----------
    watched : the lake as this process has it open, to look whether a log is due
    counts : take in what the compactor counts
    """
    compaction = compaction or CompactionSettings()
    # It appends nothing, so it never owns a log.
    alone = replace(settings, log=replace(settings.log, may_own=False, url=None, secret=None))
    payload = pickle.dumps((alone, compaction))
    compactor = Compactor(counts=counts or Counts())
    keeping = asyncio.create_task(_keep(compactor, payload, watched, compaction))
    try:
        yield compactor
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def _keep(compactor: Compactor, payload: bytes, watched: Compaction, settings: CompactionSettings) -> None:
    pause_s = _RESTART_S
    while True:
        await _until_due(watched, settings)
        started_s = watched.clock.monotonic_s()
        try:
            status = await _run(compactor, payload)
        except OSError as error:
            # No memory or no file handles for a process; there may be some later.
            _log.warning("the compactor could not be started: %s", error)
            status = -1
        if status == 0:
            continue
        if watched.clock.monotonic_s() - started_s > _HEALTHY_S:
            pause_s = _RESTART_S
        _log.warning("the compactor ended with status %s and is started anew in %.1f s", status, pause_s)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _RESTART_MAX_S)


async def _until_due(watched: Compaction, settings: CompactionSettings) -> None:
    looked_s = watched.clock.monotonic_s()
    while True:
        with contextlib.suppress(FirnlineError):  # the catalog or the store is away; statements say so
            if await due_shards(watched, settings):
                return
            if watched.indexing is not None and watched.clock.monotonic_s() - looked_s >= settings.index_interval_s:
                looked_s = watched.clock.monotonic_s()
                if await indexes_due(watched.indexing, watched.tables):
                    return
        await asyncio.sleep(settings.interval_s)


async def _run(compactor: Compactor, payload: bytes) -> int:
    """Run one process to its end, and return its status; cancelled, end the process first."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service.compactor", str(os.getpid()),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    compactor.pid, compactor.n_starts = process.pid, compactor.n_starts + 1
    compactor.counts.add("firnline_compactor_starts")
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with contextlib.suppress(ConnectionError):
            process.stdin.write(_LENGTH.pack(len(payload)) + payload)
            await process.stdin.drain()
        async for line in process.stdout:
            with contextlib.suppress(ValueError):
                told = json.loads(line)
                compactor.counts.merge(told.pop("counts", {}), "compactor")
                compactor.last_pass = told
                compactor.n_passes += 1
        return await process.wait()
    finally:
        compactor.pid = None
        process.stdin.close()
        if process.returncode is None:
            try:
                await asyncio.wait_for(asyncio.shield(process.wait()), _EXIT_S)
            except (TimeoutError, asyncio.CancelledError):
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


def main(arguments: list[str]) -> None:
    """Run the compactor of the process ``arguments[0]`` until its standard input ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(arguments[0]):
        return
    # Ctrl-C in a terminal reaches the whole group; the server says when it is time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(AttributeError, OSError):
        os.nice(5)
    from service.logs import configure_logs

    configure_logs("info")
    (length,) = _LENGTH.unpack(_exactly(_LENGTH.size))
    settings, compaction = pickle.loads(_exactly(length))
    asyncio.run(_main(settings, compaction))
    tracing.flush()


def _exactly(n: int) -> bytes:
    data = sys.stdin.buffer.read(n)
    if len(data) != n:
        sys.exit(0)
    return data


async def _main(settings: EngineSettings, compaction: CompactionSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ended() -> None:
        if not os.read(sys.stdin.fileno(), 1 << 10):
            loop.remove_reader(sys.stdin.fileno())
            stop.set()

    loop.add_reader(sys.stdin.fileno(), ended)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    counts = Counts()

    def tell(report: PassReport) -> None:
        count_pass(counts, report)
        print(json.dumps(summary(report) | {"counts": counts.take()}), flush=True)

    async with open_compaction(settings, counts=counts) as opened:
        await watch(opened, compaction, stop=stop, on_pass=tell, idle_s=_IDLE_S)


def count_pass(counts: Counts, report: PassReport) -> None:
    """Count what a pass did."""
    folded, merged = report.fold.total, report.merged.values()
    counts.add("firnline_compaction_passes")
    counts.observe("firnline_compaction_seconds", report.wall_s)
    for name, n, labels in (
        ("firnline_compaction_commits", folded["commits"], {"what": "fold"}),
        ("firnline_compaction_commits", sum(each.n_commits for each in merged), {"what": "merge"}),
        ("firnline_compaction_records", folded["records"], {}),
        ("firnline_compaction_files", sum(each.n_files_removed for each in merged), {"what": "removed"}),
        ("firnline_compaction_files", sum(each.n_files_added for each in merged), {"what": "added"}),
        ("firnline_compaction_segments_swept", report.n_segments_swept, {}),
        ("firnline_index_segments_built", report.indexed.n_built, {}),
    ):
        if n:
            counts.add(name, n, **labels)
    for error in report.errors.values():
        counts.add("firnline_compaction_errors", error=type(error).__name__)


def summary(report: PassReport) -> dict[str, object]:
    """Return the report as JSON: counts in all, and errors by table."""
    merged = report.merged.values()
    return {
        "folded": dict(report.fold.total),
        "merged": {
            "commits": sum(each.n_commits for each in merged),
            "files_removed": sum(each.n_files_removed for each in merged),
            "files_added": sum(each.n_files_added for each in merged),
        },
        "segments_swept": report.n_segments_swept,
        "indexed": {
            "tables": len(report.indexed.refreshed),
            "segments_built": report.indexed.n_built,
            "segments_swept": report.n_index_segments_swept,
        },
        "errors": {table: f"{type(error).__name__}: {error}" for table, error in report.errors.items()},
    }


if __name__ == "__main__":
    main(sys.argv[1:])
