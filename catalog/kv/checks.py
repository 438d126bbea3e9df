"""The limits that every KV backend holds its callers to, so that what works on one works on all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from catalog.kv import KEY_BYTES_MAX, TXN_BYTES_MAX, TXN_KEYS_MAX, VALUE_BYTES_MAX, Put
from storage.errors import InvalidError

__all__ = ["check_key", "check_start_revision", "check_ttl", "check_txn", "encode_key", "prefix_limit"]


def encode_key(key: str) -> bytes:
    """Return the key (or prefix) in UTF-8. Raises `InvalidError` for lone surrogates."""
    try:
        return key.encode()
    except UnicodeEncodeError as error:
        raise InvalidError("the key is not valid unicode; remove its lone surrogates", key=repr(key)) from error


def check_key(key: str) -> bytes:
    """Return the key in UTF-8. Raises `InvalidError` unless it has 1 to `KEY_BYTES_MAX` bytes."""
    encoded = encode_key(key)
    if not encoded:
        raise InvalidError("the key is empty; give it a name")
    if len(encoded) > KEY_BYTES_MAX:
        raise InvalidError("the key is too long", key=key[:64] + "…", bytes=len(encoded), limit=KEY_BYTES_MAX)
    return encoded


def check_txn(compares: Mapping[str, int], puts: Sequence[Put]) -> None:
    """Raise `InvalidError` when the transaction is past a limit or puts one key twice."""
    if max(len(compares), len(puts)) > TXN_KEYS_MAX:
        raise InvalidError(
            "the transaction names too many keys; split it",
            compares=len(compares),
            puts=len(puts),
            limit=TXN_KEYS_MAX,
        )
    n_bytes = sum(len(check_key(key)) for key in compares) + sum(map(_put_bytes, puts))
    if n_bytes > TXN_BYTES_MAX:
        raise InvalidError("the transaction is too large; split it", bytes=n_bytes, limit=TXN_BYTES_MAX)
    seen: set[str] = set()
    for put in puts:
        if put.key in seen:
            raise InvalidError("the transaction puts one key twice", key=put.key)
        seen.add(put.key)


def _put_bytes(put: Put) -> int:
    size = len(put.value or b"")
    if size > VALUE_BYTES_MAX:
        raise InvalidError(
            "the value is too large; store it as a blob and its name here",
            key=put.key,
            bytes=size,
            limit=VALUE_BYTES_MAX,
        )
    return len(check_key(put.key)) + size


def check_start_revision(start_revision: int) -> None:
    """Raise `InvalidError` unless a watch can begin there."""
    if start_revision < 1:
        raise InvalidError("a watch starts at revision 1 or later", start_revision=start_revision)


def check_ttl(ttl_s: float) -> None:
    """Raise `InvalidError` unless the time to live is positive and at most a day."""
    if not 0 < ttl_s <= 86_400:
        raise InvalidError("a lease lives more than 0 s and at most a day", ttl_s=ttl_s)


def prefix_limit(prefix: bytes) -> bytes | None:
    """Return the smallest byte string after everything that starts with ``prefix``; None when there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None
