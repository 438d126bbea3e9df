"""The stored form of `BlobKV`'s head: one JSON document, version 1.

A value that is UTF-8 is kept as text, any other as ``{"base64": …}``, so a person can read a catalog with any tool.
``sequence`` counts writes of the head; ``requests`` names the last `REQUESTS_KEPT` of them, newest last, so that a
writer which lost a reply finds out whether its write is in.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import deque
from dataclasses import dataclass
from typing import Any

from catalog.kv import Event
from catalog.kv.state import HistoryLimits, Lease, MapState, Stored
from storage.errors import CorruptError, UnsupportedError

__all__ = ["REQUESTS_KEPT", "VERSION", "Head", "decode", "encode"]

VERSION = 1
REQUESTS_KEPT = 256


@dataclass(frozen=True, slots=True)
class Head:
    """One version of the map, as read from or written to the store; ``etag`` is None before the first write."""

    state: MapState
    sequence: int
    requests: tuple[str, ...]
    etag: str | None

    def followed_by(self, state: MapState, request_id: str) -> Head:
        """Return the head that ``request_id`` wants to put in this one's place."""
        return Head(state, self.sequence + 1, (*self.requests, request_id)[-REQUESTS_KEPT:], self.etag)


def encode(head: Head) -> bytes:
    """Return the document that `decode` reads."""
    state = head.state
    document = {
        "format": "firnline-kv",
        "version": VERSION,
        "sequence": head.sequence,
        "requests": head.requests,
        "revision": state.revision,
        "floor": state.floor,
        "next_lease": state.next_lease,
        "leases": {str(lease): [held.ttl_ms, held.expires_ms] for lease, held in state.leases.items()},
        "entries": {
            key: [stored.revision, stored.lease, _value(stored.value)] for key, stored in sorted(state.entries.items())
        },
        "history": [[event.revision, event.key, _value(event.value)] for event in state.history],
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def decode(data: bytes, etag: str, limits: HistoryLimits, key: str) -> Head:
    """Return the head stored in ``data``. Raises `CorruptError`, or `UnsupportedError` for a newer version."""
    try:
        document = json.loads(data)
        version = document["version"]
        if document["format"] != "firnline-kv":
            raise CorruptError("this blob is no catalog head", key=key)
        if version != VERSION:
            raise UnsupportedError(
                "the catalog head is of another format version; use the release that wrote it",
                key=key,
                version=version,
                known=VERSION,
            )
        return Head(_state(document, limits), document["sequence"], tuple(document["requests"]), etag)
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise CorruptError("the catalog head does not parse", key=key, cause=repr(error)[:200]) from error


def _state(document: dict[str, Any], limits: HistoryLimits) -> MapState:
    history = deque(Event(key, _bytes(value), revision) for revision, key, value in document["history"])
    return MapState(
        limits,
        document["revision"],
        document["floor"],
        document["next_lease"],
        {key: Stored(_bytes(value) or b"", at, lease) for key, (at, lease, value) in document["entries"].items()},
        {int(lease): Lease(*held) for lease, held in document["leases"].items()},
        history,
        sum(len(event.value or b"") for event in history),
    )


def _value(value: bytes | None) -> str | dict[str, str] | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _bytes(value: str | dict[str, str] | None) -> bytes | None:
    if value is None or isinstance(value, str):
        return None if value is None else value.encode()
    return base64.b64decode(value["base64"], validate=True)
