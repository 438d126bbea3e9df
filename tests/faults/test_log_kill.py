"""A real process that appends, killed at random times: nothing acknowledged is lost, nothing is doubled."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from storage.blobs.local import LocalBlobs
from storage.clock import SystemClock
from tests.support.logs import bodies, open_test_log

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


def run_and_kill(lake: Path, epoch: int, mode: str, after_s: float) -> list[str]:
    """Start the process, kill it ``after_s`` after it is ready, and return what it said was acknowledged."""
    command = [sys.executable, "-m", "tests.support.log_process", str(lake), str(epoch), mode]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        # It starts by recovering what the last one left, and may be killed at that too.
        if after_s > 0.01:
            assert process.stdout.readline() == b"ready\n"
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        said = process.stdout.read()
    lines = said.decode().splitlines(keepends=True)
    return [line.strip() for line in lines if line.endswith("\n") and line != "ready\n"]


@pytest.mark.parametrize("mode", ["fsync", "object"])
async def test_a_killed_process_loses_and_doubles_nothing(mode: str, tmp_path: Path) -> None:
    chance = random.Random(20261120)
    acked: list[str] = []
    n_kills = 8
    for epoch in range(1, n_kills + 1):
        acked += run_and_kill(tmp_path, epoch, mode, chance.uniform(0.02, 0.25))
    assert len(acked) > 10 * n_kills
    blobs = LocalBlobs(tmp_path / "blobs", SystemClock())
    journal = tmp_path / "journal" if mode == "fsync" else None
    async with await open_test_log(blobs, n_kills + 1, journal):
        pass
    found = Counter(await bodies(blobs))
    assert set(acked) - set(found) == set()
    assert [text for text, n in found.items() if n > 1] == []
