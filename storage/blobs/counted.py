"""`Blobs` whose requests are counted, by operation and outcome, with the time they took, retries included."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager

from storage.blobs import BlobMeta, Blobs
from storage.clock import Clock
from storage.counts import Counts

__all__ = ["CountedBlobs", "counting"]


def counting(open_blobs: Callable[[str], Blobs], counts: Counts, clock: Clock) -> Callable[[str], Blobs]:
    """Return an opener of blobs that count."""

    def opened(root: str) -> Blobs:
        return CountedBlobs(open_blobs(root), counts, clock, root.partition("://")[0])

    return opened


class CountedBlobs:
    """The blobs of another, ``store`` (``s3``, ``file``) being their label."""

    def __init__(self, inner: Blobs, counts: Counts, clock: Clock, store: str) -> None:
        self._inner, self._counts, self._clock, self._store = inner, counts, clock, store

    def _counted(self, operation: str) -> AbstractContextManager[None]:
        return self._counts.request(
            "firnline_store_requests", "firnline_store_seconds", self._clock, store=self._store, operation=operation
        )

    def _read(self, n_bytes: int) -> None:
        self._counts.add("firnline_store_bytes", n_bytes, store=self._store, direction="read")

    async def get(self, key: str) -> tuple[bytes, BlobMeta]:
        with self._counted("get"):
            data, meta = await self._inner.get(key)
        self._read(len(data))
        return data, meta

    async def get_range(self, key: str, start: int, limit: int) -> bytes:
        with self._counted("get"):
            data = await self._inner.get_range(key, start, limit)
        self._read(len(data))
        return data

    async def get_range_with_etag(
        self, key: str, start: int, limit: int, *, if_match: str | None = None
    ) -> tuple[bytes, str]:
        with self._counted("get"):
            data, etag = await self._inner.get_range_with_etag(key, start, limit, if_match=if_match)
        self._read(len(data))
        return data, etag

    async def get_ranges(
        self, key: str, ranges: Sequence[tuple[int, int]], *, if_match: str | None = None, exact: bool = False
    ) -> list[bytes]:
        with self._counted("get_ranges"):
            parts = await self._inner.get_ranges(key, ranges, if_match=if_match, exact=exact)
        self._read(sum(map(len, parts)))
        return parts

    async def head(self, key: str) -> BlobMeta:
        with self._counted("head"):
            return await self._inner.head(key)

    async def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> BlobMeta:
        with self._counted("put"):
            meta = await self._inner.put(key, data, if_absent=if_absent, if_match=if_match)
        self._counts.add("firnline_store_bytes", len(data), store=self._store, direction="written")
        return meta

    async def list(self, prefix: str = "", *, start_after: str | None = None) -> AsyncIterator[BlobMeta]:
        # Who lists may stop early, and takes its time between two entries: neither is the store's.
        outcome = "succeeded"
        try:
            async for meta in self._inner.list(prefix, start_after=start_after):
                yield meta
        except GeneratorExit:
            raise
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            self._counts.add("firnline_store_requests", store=self._store, operation="list", outcome=outcome)

    async def delete(self, key: str) -> None:
        with self._counted("delete"):
            await self._inner.delete(key)

    async def presign(self, key: str, *, expires_s: int) -> str | None:
        return await self._inner.presign(key, expires_s=expires_s)

    async def close(self) -> None:
        await self._inner.close()
