"""Blobs in a dictionary: for tests and for lakes that live as long as their process.

Every operation runs without giving way to another task, so each is atomic. Etags count up and never come again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from storage.blobs import BlobMeta
from storage.blobs.keys import check_condition, check_key, check_prefix, check_ranges
from storage.clock import Clock
from storage.errors import ConflictError, NotFoundError

__all__ = ["MemoryBlobs"]


class MemoryBlobs:
    """One dictionary of blobs; see `storage.blobs.Blobs` for what each call promises."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._blobs: dict[str, tuple[bytes, BlobMeta]] = {}
        self._n_puts = 0

    async def get(self, key: str) -> tuple[bytes, BlobMeta]:
        return self._find(key)

    async def get_range(self, key: str, start: int, limit: int) -> bytes:
        return (await self.get_ranges(key, [(start, limit)]))[0]

    async def get_range_with_etag(
        self, key: str, start: int, limit: int, *, if_match: str | None = None
    ) -> tuple[bytes, str]:
        [part] = await self.get_ranges(key, [(start, limit)], if_match=if_match)
        return part, self._find(key)[1].etag

    async def get_ranges(
        self,
        key: str,
        ranges: Sequence[tuple[int, int]],
        *,
        if_match: str | None = None,
        exact: bool = False,  # noqa: ARG002 — there are no requests
    ) -> list[bytes]:
        check_ranges(ranges)
        data, meta = self._find(key)
        if if_match is not None and meta.etag != if_match:
            raise ConflictError("the blob has changed", key=key, if_match=if_match)
        return [data[start:limit] for start, limit in ranges]

    async def head(self, key: str) -> BlobMeta:
        return self._find(key)[1]

    async def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> BlobMeta:
        check_key(key)
        check_condition(if_absent, if_match)
        found = self._blobs.get(key)
        if if_absent and found is not None:
            raise ConflictError("the blob exists already", key=key)
        if if_match is not None and (found is None or found[1].etag != if_match):
            raise ConflictError("the blob has changed", key=key, if_match=if_match)
        self._n_puts += 1
        meta = BlobMeta(key, len(data), f"m{self._n_puts}", self._clock.now_ms())
        self._blobs[key] = (bytes(data), meta)
        return meta

    async def list(self, prefix: str = "", *, start_after: str | None = None) -> AsyncIterator[BlobMeta]:
        check_prefix(prefix)
        keys = [key for key in self._blobs if key.startswith(prefix)]
        # Code points sort as their UTF-8 bytes do.
        for key in sorted(keys):
            if (start_after is None or key > start_after) and key in self._blobs:
                yield self._blobs[key][1]

    async def delete(self, key: str) -> None:
        check_key(key)
        self._blobs.pop(key, None)

    async def presign(self, key: str, *, expires_s: int) -> str | None:  # noqa: ARG002 — no server, no URL
        check_key(key)
        return None

    async def close(self) -> None:
        """Keep everything, so that a test can open the same blobs again."""

    def _find(self, key: str) -> tuple[bytes, BlobMeta]:
        check_key(key)
        try:
            return self._blobs[key]
        except KeyError:
            raise NotFoundError("no such blob", key=key) from None
