"""``firn serve`` in a process of its own, and the plainest client that speaks to it."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

import pyarrow as pa

from benchmarks.machine import REPOSITORY

__all__ = ["Client", "RefusedError", "Server", "serving", "start_announced"]


FIRN = "from firnline.cli import main; main()"
"""What the script ``firn`` does, with this interpreter."""


class RefusedError(Exception):
    """The server answered with an error; the message is its problem document."""


class Client:
    """One connection, kept alive."""

    def __init__(self, url: str, timeout_s: float = 600) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)

    def sql(self, sql: str, **members: Any) -> pa.Table:
        """Return a statement's answer, asked for as Arrow. Raises `RefusedError`."""
        body = json.dumps({"sql": sql, "format": "arrow", **members})
        self._connection.request("POST", "/v1/sql", body, {"Content-Type": "application/json"})
        with self._connection.getresponse() as response:
            if response.status >= 300:
                raise RefusedError(response.read().decode())
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
    with tempfile.TemporaryDirectory() as lake:
        asked = ["serve", "--lake", lake, "--port", "0", *(f"--allow={prefix}" for prefix in allow)]
        with _started([sys.executable, "-c", FIRN, *asked], ready_s) as (url, pid):
            yield Server(url, pid, lake)


@contextmanager
def start_announced(module: str, *arguments: str, ready_s: float = 60) -> Iterator[tuple[str, int]]:
    """Run ``python -m module …`` until the block ends; yield the URL of its line ``listening on URL``, and its process
    id. Raises `RuntimeError` with its last words when it does not come up."""
    with _started([sys.executable, "-m", module, *arguments], ready_s) as started:
        yield started


@contextmanager
def _started(
    command: Sequence[str], ready_s: float, settings: Mapping[str, str] | None = None
) -> Iterator[tuple[str, int]]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "FIRN_"))}
    environment |= settings or {}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=REPOSITORY, env=environment
        )
        try:
            assert process.stdout is not None
            url = _announced(process.stdout, ready_s)
            if url is None:
                log.seek(0)
                raise RuntimeError(f"{command[1:4]} did not come up: {log.read()[-2000:].decode(errors='replace')}")
            yield url, process.pid
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _announced(output: IO[str], ready_s: float) -> str | None:
    while select.select([output], [], [], ready_s)[0]:
        line = output.readline()
        if not line:
            return None
        if "listening on " in line:
            return line.partition("listening on ")[2].strip()
    return None
