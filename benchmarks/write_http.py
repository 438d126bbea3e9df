"""Load on ``POST /v1/tables/{name}/rows``: connections that send the next rows as soon as the last are acknowledged.

The generator is a process of its own, does as little as it can, and counts what it sent, so that it can be compared
with what the table holds.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.machine import REPOSITORY
from benchmarks.serving import FIRN, Server, _started

__all__ = ["Load", "ingest_load", "json_rows", "rows_request", "serving_lake"]


@dataclass(frozen=True, slots=True)
class Load:
    """What a load saw: rows acknowledged, seconds each request took, errors by their first line."""

    rows: int
    rows_per_s: float
    seconds: list[float]
    errors: dict[str, int]


@contextmanager
def serving_lake(
    lake: Path | str, *arguments: str, ready_s: float = 60, program: str = "serve",
    settings: Mapping[str, str] | None = None,
) -> Iterator[Server]:  # fmt: skip
    """Serve a lake until the block ends; ``settings`` are variables of its environment."""
    asked = [program, "--lake", str(lake), "--port", "0", *arguments]
    with _started([sys.executable, "-c", FIRN, *asked], ready_s, settings) as (url, pid):
        yield Server(url, pid, str(lake))


def json_rows(first: int, n: int) -> bytes:
    """Return n rows of the load as a JSON array; their ids begin at ``first``."""
    return ("[" + ",".join(f'{{"id":{first + i},"note":"row"}}' for i in range(n)) + "]").encode()


def rows_request(url: str, table: str, body: bytes, content_type: str = "application/json") -> bytes:
    """Return the bytes of one request."""
    parts = urlsplit(url)
    head = (
        f"POST /v1/tables/{table}/rows HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def ingest_load(url: str, table: str, connections: int, rows: int, seconds: float) -> Load:
    """Run the load from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.write_http", url, table, str(connections), str(rows), str(seconds)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the load generator failed: {done.stderr[-1000:]}")
    found = json.loads(done.stdout)
    return Load(found["rows"], found["rows_per_s"], found["seconds"], found["errors"])


class _Sender(asyncio.Protocol):
    """One connection: sends, waits for the answer, sends again."""

    def __init__(self, make: Callable[[], bytes], done: Callable[[float, bytes], bool]) -> None:
        self._make, self._done = make, done
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._done(0.0, f"HTTP/1.1 000 {exc}".encode())

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._make())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.find(b"content-length:")
        if at < 0 or len(self._buffer) < end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0]):
            return
        answer, self._buffer = self._buffer, b""
        if self._done(time.perf_counter() - self._sent, answer):
            self._send()
        else:
            self._transport.close()


async def _generate(url: str, table: str, connections: int, rows: int, seconds: float) -> dict[str, object]:
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    times: list[float] = []
    errors: dict[str, int] = {}
    count = 0
    limit = time.perf_counter() + seconds

    def make() -> bytes:
        nonlocal count
        count += 1
        return rows_request(url, table, json_rows(count * rows, rows))

    def done(took: float, answer: bytes) -> bool:
        if answer.startswith(b"HTTP/1.1 200"):
            times.append(took)
        else:
            said = answer[9:120].split(b"\r\n")[0].decode(errors="replace")
            errors[said] = errors.get(said, 0) + 1
        return time.perf_counter() < limit

    started = time.perf_counter()
    senders = []
    for _ in range(connections):
        transport, _sender = await loop.create_connection(lambda: _Sender(make, done), parts.hostname, parts.port)
        senders.append(transport)
    while any(not sender.is_closing() for sender in senders) and time.perf_counter() < limit + 30:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    elapsed = time.perf_counter() - started
    acknowledged = len(times) * rows
    return {"rows": acknowledged, "rows_per_s": acknowledged / elapsed, "seconds": times, "errors": errors}


if __name__ == "__main__":
    url_, table_, connections_, rows_, seconds_ = sys.argv[1:]
    print(json.dumps(asyncio.run(_generate(url_, table_, int(connections_), int(rows_), float(seconds_)))))
