"""Coordinators and workers of other releases, played by rewriting signed messages on their way: fields that an older
release does not know are gone, fields that a newer one has are there."""

from __future__ import annotations

import hmac
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

from service.coordinate.releases import Releases
from tests.support.faulty_invoker import FaultyInvoker
from tests.support.lakes import Lake

__all__ = ["PREFIX", "SECRET", "Change", "between", "plus", "rewritten", "without"]

SECRET = "a secret of this test and of no other"
PREFIX = struct.Struct("<4sHI")

Change = Callable[[dict[str, Any]], Mapping[str, Any]]


def rewritten(message: bytes, change: Change, version: int | None = None) -> bytes:
    """Return a signed message with another header."""
    magic, known, n_bytes = PREFIX.unpack_from(message)
    start = PREFIX.size + n_bytes
    header = json.dumps(change(json.loads(message[PREFIX.size : start]))).encode()
    content = PREFIX.pack(magic, version or known, len(header)) + header + message[start:-32]
    return content + hmac.digest(SECRET.encode(), content, "sha256")


def without(*names: str) -> Change:
    """Return the change of a release that lacks fields."""
    return lambda header: {name: value for name, value in header.items() if name not in names}


def plus(**more: Any) -> Change:
    """Return the change of a release that has more fields, or others."""
    return lambda header: {**header, **more}


async def between(
    lake: Lake, *, tasks: Change | None = None, replies: Change | None = None, every: int = 1, **versions: int
) -> FaultyInvoker:
    """Have all messages, or one of ``every``, between the lake's coordinator and its workers rewritten; the coordinator
    knows nothing of its workers' release yet."""
    coordinator = lake.engine._fan_out
    assert coordinator is not None
    coordinator.releases = Releases(lake.engine.clock, 2)
    invoker = await coordinator.invoker()
    if isinstance(invoker, FaultyInvoker):
        invoker = invoker.inner

    async def before(number: int, message: bytes) -> bytes:
        if tasks is None or number % every:
            return message
        return rewritten(message, tasks, versions.get("task_version"))

    async def after(number: int, message: bytes) -> bytes:
        if replies is None or number % every:
            return message
        return rewritten(message, replies, versions.get("reply_version"))

    found = coordinator._invoker = FaultyInvoker(invoker, before, after)
    return found
