"""Puts to S3 that are never guessed about.

Each put carries its own id and the state it replaces as object metadata, the same for all tries of one put::

    firn-put: 32 hexadecimal digits        firn-base: "absent", an etag, or "any"

After a lost reply, and after a condition that failed, the blob's metadata is read back. Our id means that it happened.
Another put's id over the very base that we asked for means that it lost. Whatever else may stand there could have
replaced ours, and is `IndeterminateError`. Trying again is safe: all tries share one condition, so at most one lands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import obstore

from storage.blobs import BlobMeta
from storage.blobs.s3_client import FailedTry, S3Client
from storage.blobs.s3_errors import Failure
from storage.errors import ConflictError, FirnlineError, IndeterminateError, InvalidError, NotFoundError

__all__ = ["PUT_BYTES_MAX", "PutRequest", "put_blob"]

PUT_BYTES_MAX = 5 << 30
"""S3's limit for one request."""

Verdict = Literal["lost", "open", "undecidable"]


@dataclass(frozen=True, slots=True)
class PutRequest:
    """One put: what, on which condition, and the id by which it is known again."""

    key: str
    data: bytes
    if_absent: bool
    if_match: str | None
    put_id: str

    @property
    def base(self) -> str:
        """The state that this put replaces, as its metadata says it."""
        if self.if_absent:
            return "absent"
        return "any" if self.if_match is None else self.if_match.strip('"')


async def put_blob(client: S3Client, request: PutRequest) -> BlobMeta:
    """Put, and return once it is certain. Raises `ConflictError`, `UnavailableError`, `IndeterminateError`."""
    if len(request.data) > PUT_BYTES_MAX:
        raise InvalidError("a blob of one put holds at most 5 GiB", key=request.key, size=len(request.data))
    ambiguous = False
    for n_tries in range(1, client.attempts_max + 1):
        try:
            return await client.once(request.key, partial(_send, client, request))
        except FailedTry as failed:
            failure = failed.failure
        ambiguous = ambiguous or failure.kind == "unknown"
        if failure.kind == "rejected":
            break
        if failure.kind != "not_done":
            verdict = await _read_back(client, request, failure, ambiguous)
            if isinstance(verdict, BlobMeta):
                return verdict
            if verdict == "lost":
                raise _conflict(request)
            if verdict == "undecidable":
                raise _indeterminate(request, failure)
            # Some stores know an etag in If-Match only without its quotes, or only with them.
            request = _requoted(request) if failure.kind == "condition" else request
        if n_tries < client.attempts_max:
            await client.pause(n_tries)
    raise _indeterminate(request, failure) if ambiguous else failure.error


async def _send(client: S3Client, request: PutRequest) -> BlobMeta:
    mode: Any = "create" if request.if_absent else "overwrite"
    if request.if_match is not None:
        mode = {"e_tag": request.if_match}
    result = await obstore.put_async(
        client.writer(len(request.data)),
        request.key,
        request.data,
        attributes={"firn-put": request.put_id, "firn-base": request.base},
        mode=mode,
        use_multipart=False,
    )
    etag = result["e_tag"]
    if etag is None:
        etag = (await obstore.head_async(client.reader, request.key))["e_tag"] or ""
    return BlobMeta(request.key, len(request.data), etag, client.clock.now_ms())


async def _read_back(client: S3Client, request: PutRequest, failure: Failure, ambiguous: bool) -> BlobMeta | Verdict:
    """Find out what became of the put; `BlobMeta` if it happened, "open" if another try may decide."""
    try:
        found = await client.call(
            request.key, lambda: obstore.get_async(client.reader, request.key, options={"head": True})
        )
    except NotFoundError:
        if request.if_match is None:
            return "open"
        return "undecidable" if ambiguous else "lost"
    except FirnlineError:
        return "undecidable" if ambiguous or failure.kind == "absent" else "lost"
    etag = found.meta["e_tag"] or ""
    tags = {str(name): value for name, value in found.attributes.items()}
    if tags.get("firn-put") == request.put_id:
        return _meta(client, request, etag)
    if request.base == "any" or (request.if_match is not None and etag.strip('"') == request.base):
        return "open"
    if not ambiguous or tags.get("firn-base") == request.base:
        return "lost"
    if "firn-put" not in tags and found.meta["size"] == len(request.data) and await _holds(client, request):
        return _meta(client, request, etag)
    return "undecidable"


async def _holds(client: S3Client, request: PutRequest) -> bool:
    """Whether the blob's content is ours, for a store or another program that keeps no metadata."""

    async def read() -> bytes:
        found = await obstore.get_async(client.reader, request.key)
        return bytes(await found.bytes_async())

    try:
        return await client.call(request.key, read) == request.data
    except FirnlineError:
        return False


def _meta(client: S3Client, request: PutRequest, etag: str) -> BlobMeta:
    return BlobMeta(request.key, len(request.data), etag, client.clock.now_ms())


def _requoted(request: PutRequest) -> PutRequest:
    if request.if_match is None:
        return request
    bare = request.if_match.strip('"')
    return replace(request, if_match=bare if request.if_match.startswith('"') else f'"{bare}"')


def _conflict(request: PutRequest) -> ConflictError:
    message = "the blob exists already" if request.if_absent else "the blob has changed"
    return ConflictError(message, key=request.key, if_match=request.if_match)


def _indeterminate(request: PutRequest, failure: Failure) -> IndeterminateError:
    facts = {**failure.error.facts, "key": request.key}
    return IndeterminateError(f"the put may have happened; read it back ({failure.error.message})", **facts)
