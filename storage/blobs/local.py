"""Blobs in a folder of a local file system: one file per blob, its path the key.

1. A put writes a temporary file beside the target, fsyncs it, gives it its name in one step (``link`` when it must be
   absent, ``rename`` otherwise), and fsyncs every folder that changed. A reader sees the old bytes or the new, never
   fewer.
2. Everything that replaces or removes a file holds ``flock`` on its folder, so compare-and-swap holds between processes
   of one machine. ``if_absent`` needs no lock and holds against every other program as well.
3. An etag is (inode, mtime, ctime, size). Our own writes set an mtime that grows with each replacement, since the
   kernel's clock ticks only every few milliseconds.

Symbolic links are followed; which of them may be is for `storage.stores.AccessPolicy`. Names ``.firn-<32 hex>.tmp`` are
ours: a crash can leave one behind, and a listing does not show it. A delete is not fsynced.

Why not obstore's LocalStore: docs/design/001-blobs.md, "Alternatives".
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import TypeVar

from storage.blobs import BlobMeta
from storage.blobs.keys import check_condition, check_key, check_prefix, check_ranges
from storage.blobs.local_files import etag_of, list_files, meta_of, open_file, read_range, remove_file, translated
from storage.blobs.local_put import Condition, put_file
from storage.clock import Clock
from storage.errors import ConflictError

__all__ = ["LocalBlobs"]

_LIST_CHUNK = 1000
T = TypeVar("T")


class LocalBlobs:
    """The files under ``root``, which the first put creates; see `storage.blobs.Blobs` for what each call promises."""

    def __init__(self, root: str | Path, clock: Clock) -> None:
        self._root = Path(root)
        self._clock = clock

    async def get(self, key: str) -> tuple[bytes, BlobMeta]:
        path = self._path(key)

        def read() -> tuple[bytes, BlobMeta]:
            with open_file(path) as file:
                meta = meta_of(key, os.fstat(file.fileno()))
                return file.read(), meta

        return await self._run(key, read)

    async def get_range(self, key: str, start: int, limit: int) -> bytes:
        return (await self.get_ranges(key, [(start, limit)]))[0]

    async def get_range_with_etag(
        self, key: str, start: int, limit: int, *, if_match: str | None = None
    ) -> tuple[bytes, str]:
        [part], etag = await self._read_ranges(key, [(start, limit)], if_match)
        return part, etag

    async def get_ranges(
        self,
        key: str,
        ranges: Sequence[tuple[int, int]],
        *,
        if_match: str | None = None,
        exact: bool = False,  # noqa: ARG002 — there are no requests
    ) -> list[bytes]:
        return (await self._read_ranges(key, ranges, if_match))[0]

    async def _read_ranges(
        self, key: str, ranges: Sequence[tuple[int, int]], if_match: str | None
    ) -> tuple[list[bytes], str]:
        path = self._path(key)
        check_ranges(ranges)

        def read() -> tuple[list[bytes], str]:
            with open_file(path) as file:
                etag = etag_of(os.fstat(file.fileno()))
                if if_match is not None and etag != if_match:
                    raise ConflictError("the blob has changed", key=key, if_match=if_match)
                return [read_range(file.fileno(), start, limit) for start, limit in ranges], etag

        return await self._run(key, read)

    async def head(self, key: str) -> BlobMeta:
        path = self._path(key)
        return await self._run(key, lambda: meta_of(key, path.stat()))

    async def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> BlobMeta:
        path = self._path(key)
        check_condition(if_absent, if_match)
        condition = Condition(if_absent, if_match)
        return await self._run(key, lambda: put_file(key, path, data, condition, self._clock), writing=True)

    async def list(self, prefix: str = "", *, start_after: str | None = None) -> AsyncIterator[BlobMeta]:
        check_prefix(prefix)
        found = list_files(self._root, prefix, start_after)
        while chunk := await self._run(prefix, lambda: [*islice(found, _LIST_CHUNK)]):
            for meta in chunk:
                yield meta

    async def delete(self, key: str) -> None:
        path = self._path(key)
        await self._run(key, lambda: remove_file(path), writing=True)

    async def presign(self, key: str, *, expires_s: int) -> str | None:  # noqa: ARG002 — no server, no URL
        check_key(key)
        return None

    async def close(self) -> None:
        """Nothing is held open between calls."""

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._root / key

    async def _run(self, key: str, act: Callable[[], T], *, writing: bool = False) -> T:
        with self._translated(key, writing):
            return await asyncio.to_thread(act)

    def _translated(self, key: str, writing: bool) -> AbstractContextManager[None]:
        return translated(f"{str(self._root).rstrip('/')}/{key}", writing=writing)
