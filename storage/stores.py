"""Locations: which `Blobs` holds a URL, and whether a statement may reach it.

A *location* is ``s3://bucket/key`` or ``file:///absolute/path``, never percent-encoded: what a person sees is what
the key is. Every byte that a statement reads, and every path that is handed to the engine, passes `Stores.resolve`,
so the `AccessPolicy` also covers paths that a table's own metadata names.
"""

from __future__ import annotations

import posixpath
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from storage.blobs import BlobMeta, Blobs
from storage.blobs.ranges import COALESCE_BYTES, coalesce
from storage.errors import ForbiddenError, InvalidError

__all__ = ["AccessPolicy", "RequestCount", "Stores", "join", "normalize"]

_ALIASES = {"s3a": "s3", "s3n": "s3"}


def normalize(url: str, *, base: str | None = None) -> str:
    """Return the location for a URL or path as people write it.

    ``s3a://`` and ``s3n://`` become ``s3://``; ``file:/x`` and plain paths become ``file:///x``; a relative path is
    taken from ``base`` (a location) or else from the working directory. Raises `InvalidError` for an unknown scheme.
    """
    scheme, separator, rest = url.partition(":/")
    if separator and scheme.isalnum() and len(scheme) > 1:
        scheme = _ALIASES.get(scheme.lower(), scheme.lower())
        if scheme == "file":
            path = "/" + rest.lstrip("/")
            return "file://" + _clean(path, url)
        if scheme == "s3":
            bucket, _, key = rest.removeprefix("/").partition("/")
            if not bucket:
                raise InvalidError("the location names no bucket; write s3://bucket/path", location=url)
            return f"s3://{bucket}" + _clean("/" + key, url).rstrip("/")
        raise InvalidError("unknown scheme; use s3:// or a local path", scheme=scheme, location=url)
    if url.startswith("/"):
        return "file://" + _clean(url, url)
    if not url:
        raise InvalidError("the location is empty; give a path or s3://bucket/path")
    if base is not None:
        return join(base, url)
    return "file://" + _clean(str(Path.cwd() / url), url)


def _clean(path: str, url: str) -> str:
    if "\x00" in path:
        raise InvalidError("the location holds a NUL byte", location=repr(url))
    return posixpath.normpath(path).replace("//", "/", 1) if path.startswith("//") else posixpath.normpath(path)


def join(base: str, *parts: str) -> str:
    """Join a location and relative parts with single slashes; ``..`` is resolved and may not leave the authority."""
    scheme, _, rest = base.partition("://")
    authority, _, path = rest.partition("/")
    joined = posixpath.normpath("/".join(["", path, *parts])).lstrip("/")
    return f"{scheme}://{authority}/{joined}".rstrip("/")


@dataclass(frozen=True)
class AccessPolicy:
    """Which locations may be reached: None means all (the embedded default), else only those under a prefix.

    The prefixes' own symbolic links are followed once, when first needed.
    """

    prefixes: tuple[str, ...] | None = None

    @cached_property
    def _roots(self) -> tuple[str, ...]:
        return tuple(map(_real, self.prefixes or ()))

    def check(self, location: str) -> None:
        """Raise `ForbiddenError` unless ``location`` lies under an allowed prefix, symbolic links resolved."""
        if self.prefixes is None:
            return
        real = _real(location)
        if not any(real == root or real.startswith(root.rstrip("/") + "/") for root in self._roots):
            raise ForbiddenError(
                "this location is outside the lake and the allowed prefixes; allow it with --allow PREFIX",
                location=location,
            )


def _real(location: str) -> str:
    if location.startswith("file://"):
        try:
            return "file://" + str(Path(location.removeprefix("file://")).resolve())
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name too long or not encodable
            raise InvalidError(
                "the path cannot be resolved", location=repr(location)[:200], reason=str(error)
            ) from error
    return location.rstrip("/")


def _is_remote(location: str) -> bool:
    return not location.startswith("file://")


@dataclass(slots=True)
class RequestCount:
    """Requests and bytes that one statement asked of the stores.

    gets, puts : those of object stores, by price: reads, and writes with listings
    """

    requests: int = 0
    bytes: int = 0
    gets: int = 0
    puts: int = 0

    def put(self, location: str) -> None:
        """Count a blob that was written through its `Blobs`."""
        self.requests += 1
        self.puts += _is_remote(location)


@dataclass
class Stores:
    """Opens each authority's `Blobs` once and reads locations through it.

    Parameters
    ----------
    open_blobs : called with ``"file://"`` or ``"s3://bucket"``, returns its `Blobs`
    policy : what may be reached
    count : adds up what was asked; `scoped` gives a statement its own
    """

    open_blobs: Callable[[str], Blobs]
    policy: AccessPolicy = field(default_factory=AccessPolicy)
    count: RequestCount = field(default_factory=RequestCount)
    _opened: dict[str, Blobs] = field(default_factory=dict)

    def scoped(self, policy: AccessPolicy | None = None) -> Stores:
        """Return stores that share the connections but count on their own, under ``policy`` if one is given."""
        return Stores(self.open_blobs, policy or self.policy, RequestCount(), self._opened)

    def resolve(self, location: str) -> tuple[Blobs, str]:
        """Return the `Blobs` and the key of a normalized location. Raises `ForbiddenError`."""
        self.policy.check(location)
        scheme, _, rest = location.partition("://")
        authority, _, key = rest.partition("/")
        return self.blobs(f"{scheme}://{authority}"), key

    def blobs(self, root: str) -> Blobs:
        """Return the `Blobs` of an authority, opened once; the policy has no say here."""
        if root not in self._opened:
            self._opened[root] = self.open_blobs(root)
        return self._opened[root]

    async def get(self, location: str) -> bytes:
        """Return the whole blob at ``location``."""
        blobs, key = self.resolve(location)
        data, _meta = await blobs.get(key)
        self._add(location, 1, len(data))
        return data

    async def get_range(self, location: str, start: int, limit: int) -> bytes:
        """Return bytes [start, limit) of the blob at ``location``."""
        blobs, key = self.resolve(location)
        data = await blobs.get_range(key, start, limit)
        self._add(location, 1, len(data))
        return data

    async def get_range_with_etag(
        self, location: str, start: int, limit: int, *, if_match: str = ""
    ) -> tuple[bytes, str]:
        """Return bytes [start, limit) and the blob's etag. Raises `ConflictError` if that is not ``if_match``."""
        blobs, key = self.resolve(location)
        self._add(location, 1, 0)
        data, etag = await blobs.get_range_with_etag(key, start, limit, if_match=if_match or None)
        self._add(location, 0, len(data))
        return data, etag

    async def get_ranges(
        self, location: str, ranges: Sequence[tuple[int, int]], *, if_match: str = "", exact: bool = False
    ) -> list[bytes]:
        """Return several byte ranges of one blob: near ones as one request, or ``exact``, each as one, all at once.

        Raises `ConflictError` if the blob's etag is not ``if_match`` ("": any will do).
        """
        blobs, key = self.resolve(location)
        spans = [pair for pair in ranges if pair[0] < pair[1]] if exact else coalesce(ranges, COALESCE_BYTES)
        self._add(location, len(spans) if exact else max(1, len(spans)), 0)
        parts = await blobs.get_ranges(key, ranges, if_match=if_match or None, exact=exact)
        self._add(location, 0, sum(map(len, parts)))
        return parts

    async def head(self, location: str) -> BlobMeta:
        """Return size and etag of the blob at ``location``."""
        blobs, key = self.resolve(location)
        self._add(location, 1, 0)
        return await blobs.head(key)

    async def list(self, location: str, *, start_after: str | None = None) -> AsyncIterator[tuple[str, BlobMeta]]:
        """Yield (location, meta) of the blobs whose location starts with ``location`` (end it with / for a folder).

        ``start_after`` is a location too: listing begins behind it.
        """
        blobs, key = self.resolve(location.rstrip("/"))
        prefix = key + "/" if location.endswith("/") and key else key
        root = location.partition("://")[0] + "://" + location.partition("://")[2].partition("/")[0]
        after = start_after.removeprefix(root + "/") if start_after else None
        self.count.requests += 1
        self.count.puts += _is_remote(location)
        async for meta in blobs.list(prefix, start_after=after):
            yield f"{root}/{meta.key}", meta

    async def close(self) -> None:
        """Close every opened `Blobs`."""
        for blobs in self._opened.values():
            await blobs.close()
        self._opened.clear()

    def _add(self, location: str, requests: int, n_bytes: int) -> None:
        self.count.requests += requests
        self.count.gets += requests if _is_remote(location) else 0
        self.count.bytes += n_bytes
