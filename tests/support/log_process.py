"""A process that appends for ever and says what was acknowledged, to be killed: ``LAKE EPOCH fsync|object``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from storage.blobs.local import LocalBlobs
from storage.clock import SystemClock
from storage.log.settings import LogSettings
from storage.log.writer import LogWriter, open_log
from tests.support.logs import LOG, TestLease, record

SETTINGS = LogSettings(flush_interval_ms=5, segment_bytes_max=4000, journal_bytes_max=20_000)


async def client(writer: LogWriter, name: str) -> None:
    n = 0
    while True:
        text = f"{name}.{n}"
        await writer.append([record(text, text)])
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        n += 1


async def main(lake: Path, epoch: int, mode: str) -> None:
    clock = SystemClock()
    blobs = LocalBlobs(lake / "blobs", clock)
    journal = lake / "journal" if mode == "fsync" else None
    writer = await open_log(blobs, LOG, TestLease(epoch), SETTINGS, clock, journal)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.gather(*(client(writer, f"{epoch}.{n}") for n in range(8)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
