"""Frames between server and workers: whole or not at all."""

import asyncio
import socket

import pytest

from functions.frames import Frames, Kind

pytestmark = pytest.mark.anyio


@pytest.fixture
def ends() -> tuple[Frames, Frames]:
    ours, theirs = socket.socketpair()
    return Frames(ours), Frames(theirs)


async def test_frames_of_every_size_arrive_in_order(ends: tuple[Frames, Frames]) -> None:
    payloads = [b"", b"x", b"y" * 5000, memoryview(b"z" * 3_000_000)]

    async def send() -> None:
        for payload in payloads:
            await ends[0].send(Kind.CHUNK, payload)

    sending = asyncio.create_task(send())
    for payload in payloads:
        assert await ends[1].receive() == (Kind.CHUNK, payload)
    await sending
    for end in ends:
        end.close()


async def test_a_cancelled_sender_leaves_no_half_frame_behind(ends: tuple[Frames, Frames]) -> None:
    large = b"a" * 5_000_000
    sending = asyncio.create_task(ends[0].send(Kind.CHUNK, large))
    await asyncio.sleep(0.05)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    following = asyncio.create_task(ends[0].send(Kind.ERROR, b"cancelled"))
    assert await ends[1].receive() == (Kind.CHUNK, large)
    assert await ends[1].receive() == (Kind.ERROR, b"cancelled")
    await following
    for end in ends:
        end.close()


async def test_the_end_of_the_other_side_is_none_even_inside_a_frame() -> None:
    ours, theirs = socket.socketpair()
    frames = Frames(ours)
    theirs.sendall(b"\x06\xff\x00\x00\x00half")
    theirs.close()
    assert await frames.receive() is None
    with pytest.raises(BrokenPipeError):
        await frames.send(Kind.RUN, b"x")
    frames.close()
