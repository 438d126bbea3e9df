"""What Linux tells of other processes."""

import os
import subprocess
import sys
import time

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
