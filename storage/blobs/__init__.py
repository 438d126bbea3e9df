"""The `Blobs` contract: named immutable byte strings, and heads that change by compare-and-swap.

1. A put that returned is durable and visible to every later get, head and list.
2. ``put(if_absent=True)``: of any number of concurrent puts to one key exactly one returns, the others raise
   `ConflictError`. ``put(if_match=etag)`` succeeds only while the blob's etag is ``etag``.
3. An etag changes whenever the content does.
4. A lost reply is read back inside the backend, so a conditional put of ours that happened never surfaces as
   `ConflictError`; what cannot be decided raises `IndeterminateError`.
5. Retries are bounded and jittered; `UnavailableError` means that nothing happened.

Keys are ``/``-separated, without a leading slash, and have no ``.`` or ``..`` or empty segments, no control characters,
and at most 1024 bytes of UTF-8; any other raises `InvalidError`. There are no folders: no blob is found under the name
of one. Where the store has folders, a key that is a folder of another raises `InvalidError` on put.
Ranges are half-open. Only heads (`put` without a condition or with ``if_match``) ever change.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["BlobMeta", "Blobs"]


@dataclass(frozen=True, slots=True)
class BlobMeta:
    """What a listing or a head knows of a blob."""

    key: str
    size: int
    etag: str
    modified_ms: int


class Blobs(Protocol):
    """One bucket, folder or dictionary of blobs. Safe for concurrent use by tasks of one event loop."""

    async def get(self, key: str) -> tuple[bytes, BlobMeta]:
        """Return the whole blob. Raises `NotFoundError`."""
        ...

    async def get_range(self, key: str, start: int, limit: int) -> bytes:
        """Return bytes [start, limit), cut at the blob's end. Raises `NotFoundError`; `InvalidError`: start > limit."""
        ...

    async def get_range_with_etag(
        self, key: str, start: int, limit: int, *, if_match: str | None = None
    ) -> tuple[bytes, str]:
        """Return what `get_range` does, and the etag of the blob that it was read of; ``if_match`` as `get_ranges`."""
        ...

    async def get_ranges(
        self, key: str, ranges: Sequence[tuple[int, int]], *, if_match: str | None = None, exact: bool = False
    ) -> list[bytes]:
        """Return one byte string per [start, limit) pair, near ranges coalesced into one request.

        Parameters
        ----------
        if_match : read only while the blob's etag is this one. Raises `ConflictError` if it is another
        exact : each range that is not empty is one request of its own, and all run at once
        """
        ...

    async def head(self, key: str) -> BlobMeta:
        """Return size and etag. Raises `NotFoundError`."""
        ...

    async def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> BlobMeta:
        """Write the whole blob. Raises `ConflictError` when the condition does not hold."""
        ...

    def list(self, prefix: str = "", *, start_after: str | None = None) -> AsyncIterator[BlobMeta]:
        """Yield the blobs whose key starts with ``prefix`` in lexicographic (UTF-8) order, after ``start_after``."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the blob; removing one that is absent is no error."""
        ...

    async def presign(self, key: str, *, expires_s: int) -> str | None:
        """A URL that reads the blob without credentials for ``expires_s`` seconds; None where there is none."""
        ...

    async def close(self) -> None:
        """Release connections; the object is not used afterwards."""
        ...
