"""The local stack for tests: `localstack/stack.py` as a process, in a folder of its own, and what it left."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.firn import environment

__all__ = ["LocalStack", "until"]

_PROGRAM = Path(__file__).parents[2] / "localstack" / "stack.py"
_SECONDS = 240


class LocalStack:
    """A stack in a folder."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("etcd") is None:
            pytest.skip("the program etcd is not installed; apt-get install etcd-server")
        self.folder = folder

    def command(self, *arguments: str) -> list[str]:
        """Return the command line."""
        return [sys.executable, str(_PROGRAM), "--folder", str(self.folder), *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(*arguments), env=environment(), capture_output=True, text=True, check=False, timeout=_SECONDS
        )

    def up(self, *options: str) -> str:
        """Start it, and return what it said."""
        done = self.run("up", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def down(self, *options: str) -> str:
        """End it, and return what it said."""
        done = self.run("down", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def pid(self, part: str) -> int:
        """Return the recorded process of a part."""
        return int(json.loads((self.folder / "run" / f"{part}.json").read_text())["pid"])

    def kill(self, part: str) -> None:
        """SIGKILL a part, and wait until it is gone."""
        pid = self.pid(part)
        os.kill(pid, signal.SIGKILL)
        until(lambda: pid not in self.processes())

    def processes(self) -> dict[int, str]:
        """Return what runs of this stack, whoever started it: pid → command line."""
        return dict(_marked(f"FIRNLINE_STACK={self.folder}".encode()))

    def variables(self) -> dict[str, str]:
        """Return what the file for the shell sets."""
        lines = (self.folder / "env").read_text().splitlines()
        words = [shlex.split(line) for line in lines]
        assert all(each[0] == "export" for each in words)
        return dict(each[1].split("=", 1) for each in words)

    @property
    def url(self) -> str:
        """Return the endpoint's URL."""
        return self.variables()["STACK_URL"]

    def sql(self, text: str, **members: Any) -> dict[str, Any]:
        """Run a statement over HTTP."""
        answer = httpx.post(f"{self.url}/v1/sql", json={"sql": text, **members}, timeout=120, trust_env=False)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


def _marked(mark: bytes) -> Iterator[tuple[int, str]]:
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with suppress(OSError):
                if mark in (path / "environ").read_bytes().split(b"\0"):
                    yield int(path.name), (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()


def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    """Wait for a condition. Fails the test where it does not come true."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
