"""API tokens: who may speak to a server, kept in the catalog's KV.

A token reads ``firn_<id>_<secret>``. The secret is 256 random bits, shown once and stored only as its SHA-256. A plain
fast hash is right for it: salts and slow hashes protect what people choose and attackers can guess; 2**256 values
cannot be tried, at any speed, and a slow hash on every request would itself be a way to keep a server busy. Hashes are
compared in constant time, and a token that is unknown, wrong, revoked or expired gets one and the same answer.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
import secrets
from dataclasses import dataclass
from typing import Any, Literal, get_args

from catalog.kv import KV, Entry, Put
from storage.clock import Clock
from storage.errors import ConflictError, CorruptError, InvalidError, NotFoundError, UnauthenticatedError

__all__ = ["TOKEN_PREFIX", "Role", "Token", "create_token", "list_tokens", "revoke_token", "verify_token"]

Role = Literal["reader", "writer", "admin"]

TOKEN_PREFIX = "tokens/"
"""Of the keys that tokens are kept under."""

_VERSION = 1
_NAME_CHARS_MAX = 100
_TOKEN = re.compile(r"firn_([0-9a-f]{16})_([0-9a-f]{64})")
_NO_HASH = "0" * 64


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token; never its secret. ``expires_ms`` is None for one that does not expire."""

    token_id: str
    role: Role
    name: str
    created_ms: int
    expires_ms: int | None


async def create_token(
    kv: KV, clock: Clock, role: Role, name: str, expires_in_s: float | None = None
) -> tuple[str, str]:
    """Store a new token and return its id and the token itself, which cannot be had again.

    Raises `InvalidError` for an unknown role, a name that is empty or too long, or no time to live.
    """
    _check(role, name, expires_in_s)
    token_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    created_ms = clock.now_ms()
    document = {
        "version": _VERSION,
        "role": role,
        "name": name,
        "sha256": _hash(secret),
        "created_ms": created_ms,
        "expires_ms": None if expires_in_s is None else created_ms + math.ceil(expires_in_s * 1000),
    }
    key = TOKEN_PREFIX + token_id
    if not (await kv.txn({key: 0}, [Put(key, json.dumps(document).encode())])).succeeded:
        raise ConflictError("a token of this id exists already; try again", token_id=token_id)
    return token_id, f"firn_{token_id}_{secret}"


async def list_tokens(kv: KV) -> list[Token]:
    """Return all tokens, expired ones too, oldest first."""
    entries, _revision = await kv.range(TOKEN_PREFIX)
    return sorted((_parse(entry)[0] for entry in entries), key=lambda token: (token.created_ms, token.token_id))


async def revoke_token(kv: KV, token_id: str) -> None:
    """Delete the token: whoever verifies it from now on is refused. Raises `NotFoundError`."""
    key = TOKEN_PREFIX + token_id
    entry = await kv.get(key)
    if entry is None or not (await kv.txn({key: entry.revision}, [Put(key, None)])).succeeded:
        raise NotFoundError("no such token; firn token list shows them", token_id=token_id)


async def verify_token(kv: KV, clock: Clock, presented: str) -> Token:
    """Return the token that ``presented`` is. Raises `UnauthenticatedError`, which does not tell why."""
    match = _TOKEN.fullmatch(presented)
    token_id, secret = match.groups() if match else ("", "")
    entry = await kv.get(TOKEN_PREFIX + token_id) if token_id else None
    token, stored = _parse(entry) if entry else (None, _NO_HASH)
    is_right = hmac.compare_digest(_hash(secret), stored)
    if token is None or not is_right or (token.expires_ms is not None and token.expires_ms <= clock.now_ms()):
        raise UnauthenticatedError("the API token is not valid; an administrator creates one with firn token create")
    return token


def _check(role: str, name: str, expires_in_s: float | None) -> None:
    if role not in get_args(Role):
        raise InvalidError("unknown role; use reader, writer or admin", role=role)
    if not name.strip() or len(name) > _NAME_CHARS_MAX or not name.isprintable():
        raise InvalidError("give the token a printable name", name=repr(name[:200]), chars_max=_NAME_CHARS_MAX)
    if expires_in_s is not None and not 0 < expires_in_s < math.inf:
        raise InvalidError("a token expires after more than 0 s, or leave the time out", expires_in_s=expires_in_s)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _parse(entry: Entry) -> tuple[Token, str]:
    """Return the token in an entry, and its hash. Raises `CorruptError`."""
    token_id = entry.key.removeprefix(TOKEN_PREFIX)
    try:
        document: dict[str, Any] = json.loads(entry.value)
        if document["version"] != _VERSION or document["role"] not in get_args(Role):
            raise ValueError(f"version {document['version']!r}, role {document['role']!r}")
        token = Token(token_id, document["role"], document["name"], document["created_ms"], document["expires_ms"])
        return token, str(document["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(
            "the stored token does not parse; revoke it and create another", token_id=token_id, cause=repr(error)
        ) from error
