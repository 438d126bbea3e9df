"""What a worker reads of whom it does not know: little, briefly, and nothing that cannot be a task."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.types import Message

from functions.admission import FIELD, admission, is_admitted
from functions.tasks import TASK_MAGIC, Task, encode_task
from service.unadmitted import UNADMITTED_BYTES_MAX, Unadmitted
from storage.errors import CancelledError, InvalidError, OverloadedError, TooLargeError, UnavailableError
from tests.service.test_task_server import SECRET, call, count, running, until, working

MESSAGE = encode_task(Task("query", "s", "0.0", {}), SECRET.encode())
NOW_MS = 1_700_000_000_000


class Arriving:
    """A body that arrives in parts, and for ever none after the last if it is not whole."""

    def __init__(self, parts: Sequence[bytes], *, whole: bool = True) -> None:
        self._parts, self._whole = list(parts), whole
        self.n_read = 0

    async def __call__(self) -> Message:
        if not self._parts:
            await asyncio.sleep(3600)
        part = self._parts.pop(0)
        self.n_read += len(part)
        return {"type": "http.request", "body": part, "more_body": bool(self._parts) or not self._whole}


def scope_of(n_bytes: int | None) -> dict[str, object]:
    return {"headers": [] if n_bytes is None else [(b"content-length", str(n_bytes).encode())]}


async def read(room: Unadmitted, arriving: Arriving, n_bytes: int | None = None) -> bytes:
    async with room.body(scope_of(n_bytes), arriving) as body:
        assert room.n_bytes == max(len(body), n_bytes or 0)
    assert room.n_bytes == 0
    return body


@pytest.mark.anyio
@pytest.mark.parametrize("step", [1, 7, 10_000])
async def test_a_body_is_read_whole_however_it_arrives(step: int) -> None:
    parts = [MESSAGE[at : at + step] for at in range(0, len(MESSAGE), step)]
    for n_bytes in (None, len(MESSAGE)):
        assert await read(Unadmitted(TASK_MAGIC), Arriving(parts), n_bytes) == MESSAGE


@pytest.mark.anyio
@pytest.mark.parametrize("first", [b"GET / HTTP", b"FNRS" + MESSAGE[4:], b"FNTK\xff\xff" + MESSAGE[6:], b"F", b""])
async def test_what_cannot_be_a_task_is_refused_by_its_first_bytes(first: bytes) -> None:
    room, arriving = Unadmitted(TASK_MAGIC), Arriving([first, *[b"x" * 1000] * 50], whole=len(first) < 2)
    if len(first) < 2:
        arriving = Arriving([first])
    with pytest.raises(InvalidError):
        await read(room, arriving)
    assert arriving.n_read == len(first)
    assert room.n_bytes == 0


@pytest.mark.anyio
async def test_a_body_that_is_too_long_is_refused_before_it_is_read_or_as_soon_as_it_shows() -> None:
    room = Unadmitted(TASK_MAGIC, bytes_max=1000)
    arriving = Arriving([MESSAGE])
    with pytest.raises(TooLargeError, match=r"firnline-admission n_bytes=1001 bytes_max=1000"):
        await read(room, arriving, 1001)
    assert arriving.n_read == 0
    arriving = Arriving([MESSAGE[:100], *[b"x" * 400] * 50])
    with pytest.raises(TooLargeError):
        await read(room, arriving)
    assert arriving.n_read == 1300
    assert room.n_bytes == 0


@pytest.mark.anyio
async def test_bodies_at_once_are_bounded_together_and_give_their_room_back() -> None:
    room = Unadmitted(TASK_MAGIC, bytes_max=1000)
    slow = asyncio.create_task(read(room, Arriving([MESSAGE[:50]], whole=False), 700))
    await asyncio.sleep(0)
    assert room.n_bytes == 700
    with pytest.raises(OverloadedError) as refused:
        await read(room, Arriving([MESSAGE]), 400)
    assert refused.value.facts["retry_after_s"] == 1
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    assert await read(room, Arriving([MESSAGE]), 400) == MESSAGE


@pytest.mark.anyio
async def test_a_body_that_does_not_come_and_a_client_that_leaves_are_not_waited_for() -> None:
    room = Unadmitted(TASK_MAGIC, body_s=0.05)
    with pytest.raises(UnavailableError, match="in time"):
        await read(room, Arriving([MESSAGE[:50]], whole=False), 700)

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    with pytest.raises(CancelledError):
        async with room.body(scope_of(700), gone):
            pass
    assert room.n_bytes == 0


def test_a_line_admits_what_it_was_signed_for_and_nothing_else() -> None:
    line = admission(5000, NOW_MS, b"new,old")
    assert is_admitted(line, 5000, NOW_MS, b"new")
    assert is_admitted(line, 5000, NOW_MS, b"newest,new")
    assert not is_admitted(line, 5001, NOW_MS, b"new")
    assert not is_admitted(line, 5000, NOW_MS + 900_000, b"new")
    assert not is_admitted(line, 5000, NOW_MS, b"old")
    assert not is_admitted(line.replace(".5000.", ".9000."), 9000, NOW_MS, b"new")
    for wrong in ("", "1", "1.2.3", "..." + line, "2" + line[1:], line + "0", line[:-1] + "é", "1." + "9" * 300):
        assert not is_admitted(wrong, 5000, NOW_MS, b"new"), wrong


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("lake")
    pq.write_table(pa.table({"k": range(3000)}), found / "t.parquet")
    return found


def send(url: str, head: str, body: bytes = b"") -> socket.socket:
    place = urlsplit(url)
    connection = socket.create_connection((place.hostname or "", place.port or 0), timeout=20)
    connection.sendall(f"POST /v1/task HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode() + body)
    return connection


def test_a_worker_keeps_its_places_and_its_memory_from_strangers(folder: Path) -> None:
    with working(folder, "--port", "0", "--concurrency", "1") as (url, _process):
        with send(url, f"Content-Length: {UNADMITTED_BYTES_MAX + 1}") as refused:
            assert refused.recv(4096).startswith(b"HTTP/1.1 413 ")
        with send(url, f"Content-Length: {100 << 20}", b"nothing like a task") as refused:
            assert refused.recv(4096).startswith(b"HTTP/1.1 400 ")
        with send(url, f"Content-Length: {100 << 20}", MESSAGE[:50]) as slow:
            # It holds room for what it says will come, and no place: others' tasks run.
            assert call(url, "POST", "/v1/task", encode_task(count(folder), SECRET.encode()))[0] == 200
            with send(url, f"Content-Length: {100 << 20}", MESSAGE[:50]) as second:
                assert second.recv(4096).startswith(b"HTTP/1.1 429 ")
            # A coordinator says signed what it sends, and needs none of that room.
            n_bytes = 200 << 20
            line = admission(n_bytes, 10**13, SECRET.encode())
            with send(url, f"Content-Length: {n_bytes}\r\n{FIELD}: {line}", MESSAGE[:50]):
                until(lambda: running(url) == 1)
            until(lambda: running(url) == 0)
            slow.sendall(b"x" * 1000)
