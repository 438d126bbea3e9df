"""What Linux tells of other processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from functions.process_memory import machine_memory_bytes, rss_bytes, wants_cpu


def test_a_busy_process_wants_a_core_and_a_sleeping_one_does_not() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        time.sleep(0.3)
        assert wants_cpu(busy.pid)
        busy.kill()
    with subprocess.Popen(["sleep", "30"]) as asleep:
        time.sleep(0.3)
        assert not wants_cpu(asleep.pid)
        asleep.kill()
    assert not wants_cpu(asleep.pid)


def test_resident_memory_of_this_process_is_less_than_the_machines() -> None:
    assert 0 < rss_bytes(os.getpid()) < machine_memory_bytes()
    assert rss_bytes(2**22 + 1) == 0


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_memory_is_that_of_the_control_group_of_either_version(tmp_path: Path, name: str) -> None:
    limit = tmp_path / name
    limit.parent.mkdir(exist_ok=True)
    limit.write_text("268435456\n")
    assert machine_memory_bytes(tmp_path) == 256 << 20


@pytest.mark.parametrize("text", ["max", "9223372036854771712", "0", "-1", ""])
def test_a_control_group_without_a_limit_has_the_machines_memory(tmp_path: Path, text: str) -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine_memory_bytes(tmp_path) == machine
    (tmp_path / "memory").mkdir()
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        (tmp_path / name).write_text(text)
    assert machine_memory_bytes(tmp_path) == machine
