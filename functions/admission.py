"""A signed line that goes before a task's message: how many bytes come, so that a worker knows whom to make room for.

A message is signed as a whole, and a worker cannot tell whose it is before it has all of it. The line is
``1.UNTIL_MS.N_BYTES.MAC``: a version, when it expires (milliseconds since the epoch), the message's bytes, and
HMAC-SHA256 (hex) of what is before it. It admits bytes, no task: what has come is still believed by its own signature
only.
"""

from __future__ import annotations

import hashlib
import hmac

__all__ = ["FIELD", "admission", "is_admitted"]

FIELD = "firnline-admission"
"""The HTTP field, in lower case."""

_VERSION = "1"
_MAGIC = b"FNAD"
_LIFETIME_MS = 900_000
"""Clocks differ, and messages wait for a connection."""
_FIELD_MAX = 200


def admission(n_bytes: int, now_ms: int, secret: bytes) -> str:
    """Return the line for a message of ``n_bytes``, signed with the first of ``secret`` (``new,old``)."""
    told = f"{_VERSION}.{now_ms + _LIFETIME_MS}.{n_bytes}"
    return f"{told}.{_mac(told, secret.split(b',')[0])}"


def is_admitted(line: str, n_bytes: int, now_ms: int, secret: bytes) -> bool:
    """Tell whether a line is signed with one of ``secret``, has not expired, and is about ``n_bytes``."""
    told, _, mac = line.rpartition(".")
    version, *numbers = told.split(".")
    if version != _VERSION or len(line) > _FIELD_MAX or not all(each.isascii() and each.isdigit() for each in numbers):
        return False
    right = any(hmac.compare_digest(_mac(told, each), mac) for each in secret.split(b",") if each and mac.isascii())
    return right and len(numbers) == 2 and int(numbers[0]) > now_ms and int(numbers[1]) == n_bytes


def _mac(told: str, secret: bytes) -> str:
    return hmac.new(secret, _MAGIC + told.encode(), hashlib.sha256).hexdigest()
