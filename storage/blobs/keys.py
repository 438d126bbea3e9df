"""What a key, a prefix and a range may be; every backend checks them here, so that all refuse the same."""

from __future__ import annotations

from collections.abc import Sequence

from storage.errors import InvalidError

__all__ = ["KEY_BYTES_MAX", "check_condition", "check_key", "check_prefix", "check_ranges", "key_fault"]

KEY_BYTES_MAX = 1024
"""S3's own limit, kept by every backend."""


def check_key(key: str) -> None:
    """Raise `InvalidError` unless ``key`` is one that every backend can hold."""
    fault = key_fault(key)
    if fault is not None:
        raise InvalidError(f"not a valid key: it {fault}", key=repr(key))


def check_prefix(prefix: str) -> None:
    """Raise `InvalidError` unless ``prefix`` is empty or the beginning of some valid key."""
    fault = key_fault(prefix + "x")
    if fault is not None:
        raise InvalidError(f"not a valid prefix: it {fault}", prefix=repr(prefix))


def key_fault(key: str) -> str | None:
    """Say what is wrong with ``key``, or None."""
    if any(segment in ("", ".", "..") for segment in key.split("/")):
        return "is empty, or has an empty, '.' or '..' segment"
    if any(character < " " or character == "\x7f" for character in key):
        return "has a control character"
    try:
        n_bytes = len(key.encode())
    except UnicodeEncodeError:
        return "is not UTF-8"
    return f"is longer than {KEY_BYTES_MAX} bytes" if n_bytes > KEY_BYTES_MAX else None


def check_ranges(ranges: Sequence[tuple[int, int]]) -> None:
    """Raise `InvalidError` unless every pair is 0 <= start <= limit."""
    for start, limit in ranges:
        if not 0 <= start <= limit:
            raise InvalidError("not a valid byte range; start <= limit is needed", start=start, limit=limit)


def check_condition(if_absent: bool, if_match: str | None) -> None:
    """Raise `InvalidError` when a put asks for both conditions."""
    if if_absent and if_match is not None:
        raise InvalidError("a put takes if_absent or if_match, not both")
