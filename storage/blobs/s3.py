"""Blobs in a bucket of an S3 API, through obstore.

Reads are tried again within bounds; puts are decided as `storage.blobs.s3_put` says. A listing relies on the order that
S3 promises for general purpose buckets, and refuses a bucket that lists out of order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore

from storage.blobs import BlobMeta
from storage.blobs.keys import check_condition, check_key, check_prefix, check_ranges
from storage.blobs.ranges import COALESCE_BYTES, coalesce
from storage.blobs.s3_client import FailedTry, S3Client
from storage.blobs.s3_errors import OBSTORE_ERRORS
from storage.blobs.s3_options import S3Options
from storage.blobs.s3_put import PutRequest, put_blob
from storage.clock import Clock
from storage.errors import ConflictError, InvalidError, NotFoundError, UnsupportedError

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta

__all__ = ["S3Blobs", "S3Options"]

_FETCHES_MAX = 10
_LIST_CHUNK = 1000
_PRESIGN_S_MAX = 7 * 24 * 3600


class S3Blobs:
    """One bucket; see `storage.blobs.Blobs` for what each call promises."""

    def __init__(self, bucket: str, options: S3Options, clock: Clock) -> None:
        self._client = S3Client(bucket, options, clock)

    async def get(self, key: str) -> tuple[bytes, BlobMeta]:
        check_key(key)

        async def read() -> tuple[bytes, BlobMeta]:
            found = await obstore.get_async(self._client.reader, key)
            return bytes(await found.bytes_async()), _meta(found.meta)

        return await self._client.call(key, read)

    async def get_range(self, key: str, start: int, limit: int) -> bytes:
        return (await self.get_ranges(key, [(start, limit)]))[0]

    async def get_range_with_etag(
        self, key: str, start: int, limit: int, *, if_match: str | None = None
    ) -> tuple[bytes, str]:
        check_key(key)
        check_ranges([(start, limit)])
        return await self._fetch(key, start, limit, if_match)

    async def get_ranges(
        self, key: str, ranges: Sequence[tuple[int, int]], *, if_match: str | None = None, exact: bool = False
    ) -> list[bytes]:
        check_key(key)
        check_ranges(ranges)
        if exact:
            read = await asyncio.gather(*(self._fetch(key, *pair, if_match) for pair in ranges if pair[0] < pair[1]))
            parts = iter(read)
            return [next(parts)[0] if start < limit else b"" for start, limit in ranges]
        spans = coalesce(ranges, COALESCE_BYTES)
        if not spans:
            await self._fetch(key, 0, 0, if_match)
        slots = asyncio.Semaphore(_FETCHES_MAX)

        async def fetch(start: int, limit: int) -> bytes:
            async with slots:
                return (await self._fetch(key, start, limit, if_match))[0]

        fetched = await asyncio.gather(*(fetch(start, limit) for start, limit in spans))
        return [_cut(spans, fetched, start, limit) for start, limit in ranges]

    async def head(self, key: str) -> BlobMeta:
        check_key(key)
        return _meta(await self._client.call(key, lambda: obstore.head_async(self._client.reader, key)))

    async def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> BlobMeta:
        check_key(key)
        check_condition(if_absent, if_match)
        put_id = self._client.clock.new_id()
        return await put_blob(self._client, PutRequest(key, data, if_absent, if_match, put_id))

    async def list(self, prefix: str = "", *, start_after: str | None = None) -> AsyncIterator[BlobMeta]:
        check_prefix(prefix)
        last = ""
        async for chunk in self._pages(prefix, start_after):
            wanted = [meta for meta in chunk if _follows(meta.key, prefix, start_after)]
            for meta in await self._without_markers(wanted):
                if meta.key <= last and meta.size == 0:
                    continue  # The marker of a folder that has an empty blob for a namesake.
                if meta.key <= last:
                    raise UnsupportedError(
                        "the bucket lists keys out of order; use a general purpose bucket", bucket=self._client.bucket
                    )
                last = meta.key
                yield meta
            if chunk[-1].key > prefix and not chunk[-1].key.startswith(prefix):
                return

    async def delete(self, key: str) -> None:
        check_key(key)
        writer = self._client.writer(0)
        try:
            await self._client.call(key, lambda: obstore.delete_async(writer, key), writes=True)
        except NotFoundError as error:
            # S3 itself answers that all is well; some stores say that there was nothing.
            if "key" not in error.facts:
                raise

    async def presign(self, key: str, *, expires_s: int) -> str | None:
        check_key(key)
        if not 1 <= expires_s <= _PRESIGN_S_MAX:
            raise InvalidError("a presigned URL lives between one second and seven days", expires_s=expires_s)
        expires = timedelta(seconds=expires_s)
        return await self._client.call(key, lambda: obstore.sign_async(self._client.reader, "GET", key, expires))

    async def close(self) -> None:
        """Connections close when the object is dropped: obstore offers no other way."""

    async def _fetch(self, key: str, start: int, limit: int, if_match: str | None) -> tuple[bytes, str]:
        """Return a range's bytes and the blob's etag in one request; one that holds nothing costs a head."""

        options: GetOptions = {"range": (start, limit)}
        if if_match is not None:
            options["if_match"] = if_match

        async def read() -> tuple[bytes, str] | None:
            try:
                found = await obstore.get_async(self._client.reader, key, options=options)
                return bytes(await found.bytes_async()), found.meta["e_tag"] or ""
            except OBSTORE_ERRORS as error:
                if self._client.failure_of(error, key).kind == "range":
                    return None
                raise

        found = await self._client.call(key, read) if start < limit else None
        if found is None:
            etag = (await self.head(key)).etag
            if if_match is not None and etag.strip('"') != if_match.strip('"'):
                raise ConflictError("the blob has changed", key=key, if_match=if_match)
            found = b"", etag
        return found

    async def _pages(self, prefix: str, start_after: str | None) -> AsyncIterator[Sequence[BlobMeta]]:
        """Yield the listing of the prefix's folder, chunk by chunk, taken up again after a failure."""
        folder = prefix.rpartition("/")[0] or None
        offset = max(filter(None, [start_after, _just_before(prefix)]), default=None)
        stream = obstore.list(self._client.reader, folder, offset=offset, chunk_size=_LIST_CHUNK)
        n_tries = 0
        while True:
            try:
                chunk = await self._client.once(None, stream.__anext__)
            except StopAsyncIteration:
                return
            except FailedTry as failed:
                n_tries += 1
                if failed.failure.kind not in ("not_done", "unknown") or n_tries == self._client.attempts_max:
                    raise failed.failure.error from failed.__cause__
                await self._client.pause(n_tries)
                stream = obstore.list(self._client.reader, folder, offset=offset, chunk_size=_LIST_CHUNK)
                continue
            n_tries = 0
            # A folder marker shows without its slash, so the last path need not be the greatest.
            offset = max(found["path"] for found in chunk)
            yield [_meta(found) for found in chunk]
            if len(chunk) < _LIST_CHUNK:
                return  # A chunk is filled as long as there is more, so the end need not be asked for.

    async def _without_markers(self, metas: Sequence[BlobMeta]) -> Sequence[BlobMeta]:
        """Drop folder markers: obstore shows the empty object ``a/`` as ``a``, so each empty blob is asked for."""
        slots = asyncio.Semaphore(_FETCHES_MAX)

        async def exists(key: str) -> bool:
            async with slots:
                try:
                    await self.head(key)
                except NotFoundError:
                    return False
                return True

        empty = [meta.key for meta in metas if meta.size == 0]
        real = dict(zip(empty, await asyncio.gather(*map(exists, empty)), strict=True))
        return [meta for meta in metas if real.get(meta.key, True)]


def _cut(spans: Sequence[tuple[int, int]], fetched: Sequence[bytes], start: int, limit: int) -> bytes:
    """Take [start, limit) out of the span that covers it."""
    for (span_start, span_limit), data in zip(spans, fetched, strict=True):
        if span_start <= start < span_limit:
            return data[start - span_start : limit - span_start]
    return b""


def _follows(key: str, prefix: str, start_after: str | None) -> bool:
    return key.startswith(prefix) and (start_after is None or key > start_after)


def _just_before(prefix: str) -> str | None:
    """A key that is less than every key with ``prefix``, and has few others between; None if a folder begins there."""
    if not prefix or prefix.endswith("/") or prefix[-1] <= " ":
        return None
    # Skip what no path of obstore's may hold: "/" at the end, a control character, a surrogate.
    previous = {"0": ".", "\x80": "~", "\ue000": "\ud7ff"}.get(prefix[-1], chr(ord(prefix[-1]) - 1))
    return prefix[:-1] + previous + "~"


def _meta(found: ObjectMeta) -> BlobMeta:
    modified_ms = int(found["last_modified"].timestamp() * 1000)
    return BlobMeta(found["path"], found["size"], found["e_tag"] or "", modified_ms)
