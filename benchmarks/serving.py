"""A real HTTP service of this product in a process of its own, and the plainest client that speaks to it.

``python -m benchmarks.serving LAKE [PREFIX …]`` serves a lake on a free port of the loopback; what ``firn serve`` does.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

import pyarrow as pa

from benchmarks.machine import REPOSITORY

__all__ = ["Client", "Refusal", "Server", "serving", "start_announced"]


class Refusal(Exception):
    """The server answered with an error; the message is its problem document."""


class Client:
    """One connection, kept alive."""

    def __init__(self, url: str, timeout_s: float = 600) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)

    def sql(self, sql: str, **members: Any) -> pa.Table:
        """Return a statement's answer, asked for as Arrow. Raises `Refusal`."""
        body = json.dumps({"sql": sql, "format": "arrow", **members})
        self._connection.request("POST", "/v1/sql", body, {"Content-Type": "application/json"})
        with self._connection.getresponse() as response:
            if response.status >= 300:
                raise Refusal(response.read().decode())
            with pa.ipc.open_stream(response) as reader:
                table = reader.read_all()
            response.read()
            return table

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@dataclass(frozen=True, slots=True)
class Server:
    """A service that runs."""

    url: str
    pid: int
    lake: str

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Yield a connection of its own."""
        client = Client(self.url)
        try:
            yield client
        finally:
            client.close()


@contextmanager
def serving(*, allow: Sequence[str] = (), ready_s: float = 60) -> Iterator[Server]:
    """Serve an empty lake in a temporary folder until the block ends; SQL may also read the prefixes ``allow``."""
    with (
        tempfile.TemporaryDirectory() as lake,
        start_announced(["benchmarks.serving", lake, *allow], ready_s) as (url, pid),
    ):
        yield Server(url, pid, lake)


@contextmanager
def start_announced(module_and_arguments: Sequence[str], ready_s: float = 60) -> Iterator[tuple[str, int]]:
    """Run ``python -m …`` until the block ends; yield the URL of its line ``listening on URL``, and its process id."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "FIRN_"))}
    command = [sys.executable, "-m", *module_and_arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment)
    try:
        assert process.stdout is not None
        yield _announced(process.stdout, ready_s), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _announced(output: IO[str], ready_s: float) -> str:
    while select.select([output], [], [], ready_s)[0]:
        line = output.readline()
        if not line:
            raise RuntimeError("the server ended before it was ready")
        if "listening on " in line:
            return line.partition("listening on ")[2].strip()
    raise RuntimeError(f"the server was not ready within {ready_s:.0f} s")


def _main(lake: str, allow: Sequence[str]) -> None:
    from service.server import ServeSettings, serve
    from service.settings import EngineSettings

    serve(ServeSettings(EngineSettings(lake=lake, allow=tuple(allow)), port=0, log_level="warning"))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
