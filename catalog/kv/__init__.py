"""The `KV` contract: a small linearizable map with revisions, transactions, watches and leases.

1. Every successful transaction that changes anything gets a revision greater than all before it.
2. A read returns the latest committed state; a transaction's reads and writes are atomic.
3. ``txn`` compares *modification revisions*: a key that does not exist has revision 0.
4. A watch from revision r yields every change with revision >= r in order, once; a backend that no longer holds
   r raises `NotFoundError`, and the reader starts again from a range.
5. A key put with a lease is deleted when the lease is revoked or has not been kept alive for its time to live.
6. A transaction whose reply was lost is read back inside the backend; what cannot be decided raises
   `IndeterminateError`.

Keys are str of 1 to 1024 UTF-8 bytes, values bytes of at most 1 MiB. A transaction names at most 100 keys and carries
at most 1.25 MiB (etcd's own limits are 128 operations and 1.5 MiB); what is past a limit raises `InvalidError`.
Ranges are by prefix, in lexicographic (UTF-8) order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = [
    "KEY_BYTES_MAX",
    "KV",
    "TXN_BYTES_MAX",
    "TXN_KEYS_MAX",
    "VALUE_BYTES_MAX",
    "Entry",
    "Event",
    "Put",
    "TxnResult",
]

KEY_BYTES_MAX = 1 << 10
VALUE_BYTES_MAX = 1 << 20
TXN_KEYS_MAX = 100
TXN_BYTES_MAX = 5 << 18


@dataclass(frozen=True, slots=True)
class Entry:
    """One key as of a read."""

    key: str
    value: bytes
    revision: int
    """Revision of the transaction that last wrote the key."""


@dataclass(frozen=True, slots=True)
class Put:
    """One write of a transaction; ``value=None`` deletes. ``lease`` is an id from `KV.lease_grant`."""

    key: str
    value: bytes | None
    lease: int | None = None


@dataclass(frozen=True, slots=True)
class TxnResult:
    """``revision`` is that of the transaction when it succeeded, else the store's current one."""

    succeeded: bool
    revision: int


@dataclass(frozen=True, slots=True)
class Event:
    """One change seen by a watch; ``value`` is None for a deletion."""

    key: str
    value: bytes | None
    revision: int


class KV(Protocol):
    """Safe for concurrent use by tasks of one event loop."""

    async def get(self, key: str) -> Entry | None:
        """Return the entry, or None."""
        ...

    async def range(self, prefix: str) -> tuple[list[Entry], int]:
        """Return all entries under ``prefix`` in key order, and the revision they were read at."""
        ...

    async def txn(self, compares: Mapping[str, int], puts: Sequence[Put]) -> TxnResult:
        """Apply ``puts`` if every compared key has exactly that revision (0: absent), else change nothing.

        A key may be put once. Raises `InvalidError` past a limit, `NotFoundError` for a lease that is no more.
        """
        ...

    def watch(self, prefix: str, start_revision: int) -> AsyncIterator[Event]:
        """Yield changes under ``prefix`` with revision >= ``start_revision`` (from 1), for ever, across reconnects."""
        ...

    async def lease_grant(self, ttl_s: float) -> int:
        """Return a new lease id; the lease lives at least ``ttl_s`` seconds (etcd rounds up to whole ones, from 2)."""
        ...

    async def lease_keepalive(self, lease: int) -> None:
        """Start the lease's time to live anew. Raises `NotFoundError` when it has expired."""
        ...

    async def lease_revoke(self, lease: int) -> None:
        """End the lease and delete its keys; a lease that is no more is no error."""
        ...

    async def close(self) -> None:
        """Release connections; the object is not used afterwards."""
        ...
