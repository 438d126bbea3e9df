"""A process that ends waits for native threads that work, but not for long."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from functions.native_threads import settle


def test_a_process_whose_threads_wait_ends_at_once() -> None:
    waits = threading.Event()
    thread = threading.Thread(target=waits.wait)
    thread.start()
    took_s = []
    for _ in range(10):  # others of this machine have their turns in between
        started_s = time.perf_counter()
        settle()
        took_s.append(time.perf_counter() - started_s)
    assert min(took_s) < 0.1
    waits.set()
    thread.join()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says what threads do")
def test_a_thread_that_works_without_pythons_lock_is_waited_for() -> None:
    data = bytes(30_000_000)
    ended = []

    def work() -> None:
        hashlib.blake2b(data)
        ended.append(time.perf_counter())

    thread = threading.Thread(target=work)
    thread.start()
    started_s = time.perf_counter()
    settle()
    took_s = time.perf_counter() - started_s
    assert ended or took_s > 0.1
    assert took_s < 10
    thread.join()


def test_an_engines_process_registers_it_once(tmp_path: Path) -> None:
    code = """
import atexit, sys
import firnline
calls = []
def profile(frame, event, arg):
    if event == "call" and frame.f_code.co_name == "settle":
        calls.append(1)
sys.setprofile(profile)
atexit.register(lambda: print(len(calls)))
for name in ("a", "b"):
    with firnline.connect(f"{sys.argv[1]}/{name}") as connection:
        connection.sql("SELECT 1")
"""
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60, capture_output=True, text=True
    )
    assert found.stdout == "1\n"
