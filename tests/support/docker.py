"""The image of `make image`, run in containers on the host's network, as locked up as an orchestrator has them."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest

__all__ = ["Container", "Engine", "engine_or_skip", "free_port"]

IMAGE = os.environ.get("IMAGE", "firnline:dev")
_ROOT = Path(__file__).parents[2]
_LOCKED = (
    "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL",
    "--security-opt", "no-new-privileges",
)  # fmt: skip


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Container:
    """One that runs."""

    name: str
    engine: Engine
    port: int

    def get(self, path: str) -> int:
        """Return a GET's status; 0 where nothing answers."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def until_ready(self, path: str = "/readyz", within_s: float = 60.0) -> None:
        """Wait until it answers. Raises `AssertionError` with its log."""
        ends_s = time.monotonic() + within_s
        while self.get(path) != 200:
            assert self.running() and time.monotonic() < ends_s, self.log()
            time.sleep(0.05)

    def running(self) -> bool:
        """Whether it has not ended."""
        return self.engine.docker("inspect", "--format", "{{.State.Running}}", self.name).stdout.strip() == "true"

    def log(self) -> str:
        """Return what it wrote."""
        done = self.engine.docker("logs", self.name)
        return done.stdout + done.stderr

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside it."""
        return self.engine.docker("exec", self.name, *command)

    def terminate(self, within_s: int = 60) -> int:
        """Send SIGTERM, and return how it ended; 137 if it had to be killed."""
        self.engine.docker("stop", "--time", str(within_s), self.name)
        return int(self.engine.docker("inspect", "--format", "{{.State.ExitCode}}", self.name).stdout)


@dataclass(frozen=True)
class Engine:
    """A Docker engine that has the image."""

    host: str

    def docker(self, *arguments: str, stdin: str = "", timeout_s: float = 180) -> subprocess.CompletedProcess[str]:
        """Run the client."""
        environ = os.environ | ({"DOCKER_HOST": self.host} if self.host else {})
        return subprocess.run(
            ["docker", *arguments], input=stdin, capture_output=True, text=True, env=environ, timeout=timeout_s,
            check=False,
        )  # fmt: skip

    def run(
        self, *command: str, options: Sequence[str] = (), timeout_s: float = 180
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a locked container to its end."""
        return self.docker("run", "--rm", "--network", "none", *_LOCKED, *options, IMAGE, *command, timeout_s=timeout_s)

    @contextmanager
    def running(
        self, *command: str, port: int = 0, options: Sequence[str] = (), network: str = "host"
    ) -> Iterator[Container]:
        """Run a server in a locked container; it is removed at the end. ``network="none"``: only its own loopback."""
        done = self.docker("run", "--detach", "--network", network, *_LOCKED, *options, IMAGE, *command)
        assert not done.returncode, done.stderr
        container = Container(done.stdout.strip(), self, port)
        try:
            yield container
        finally:
            self.docker("rm", "--force", "--volumes", container.name)


@contextmanager
def engine_or_skip() -> Iterator[Engine]:
    """Yield an engine that has the image: the one that answers, or one that is started and ended here."""
    script = 'echo "engine ${DOCKER_HOST:-}"; cat >/dev/null'
    starting = subprocess.Popen(
        [str(_ROOT / "infra/image/engine.sh"), "--kept", "sh", "-c", script], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert starting.stdin and starting.stdout and starting.stderr
    try:
        first = starting.stdout.readline()
        if not first.startswith("engine "):
            pytest.skip(starting.stderr.read().strip() or "no Docker engine")
        engine = Engine(first.removeprefix("engine ").strip())
        if engine.docker("image", "inspect", IMAGE).returncode:
            pytest.skip(f"the Docker engine has no image {IMAGE}: make image builds it")
        yield engine
    finally:
        starting.stdin.close()
        starting.wait(60)
        starting.stdout.close()
        starting.stderr.close()
