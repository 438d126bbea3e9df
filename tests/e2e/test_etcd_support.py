"""The servers of these tests go with the process that started them, even when it is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.etcd import etcd_server_or_skip

pytestmark = pytest.mark.e2e

HOLD = """
import sys, time
from pathlib import Path
from tests.support.etcd import etcd_server_or_skip
with etcd_server_or_skip(folder=Path(sys.argv[1])) as server:
    print(server.process.pid, flush=True)
    time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_a_server_ends_with_its_block() -> None:
    with etcd_server_or_skip() as server:
        assert server.process is not None
        pid = server.process.pid
        assert is_running(pid)
    assert not is_running(pid)


def test_a_server_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    with etcd_server_or_skip():
        pass
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)
