"""Asynchronous statements: their state in the KV, their results as blobs, until they expire.

* ``statements/<id>`` in the KV holds a statement's state as JSON with a version, without its SQL.
* ``<prefix>statements/<id>/<page>.arrow`` in the blobs holds a page of the result: an Arrow IPC stream of whole rows.
* ``servers/<id>`` in the KV lives on a lease of the server that runs a statement: if it is gone, so is the statement.

A page has at most `PAGE_ROWS` rows and about `PAGE_BYTES` bytes.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from catalog.kv import KV, Entry, Put
from service.progress import Progress, Tell, progress_of, telling
from storage.blobs import Blobs
from storage.clock import Clock
from storage.errors import ConflictError, CorruptError, NotFoundError

__all__ = ["FINAL", "Job", "JobStore", "Page", "paged"]

PAGE_ROWS = 20_000
PAGE_BYTES = 4 << 20
FINAL = ("succeeded", "failed", "cancelled")
_VERSION = 1
_PREFIX = "statements/"


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a result."""

    key: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Job:
    """An asynchronous statement as the KV knows it.

    state : queued, running, succeeded, failed or cancelled; the last three are final
    server : that runs it
    format : of the result's pages, unless the one who fetches them asks for another
    """

    statement_id: str
    state: str
    owner: str
    server: str
    format: str
    created_ms: int
    expires_ms: int
    finished_ms: int | None = None
    cancel_requested: bool = False
    columns: list[dict[str, str]] | None = None
    pages: list[Page] = field(default_factory=list)
    row_count: int = 0
    receipt: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    progress: Progress | None = None
    """How far it is; not stored with it."""

    def to_dict(self) -> dict[str, Any]:
        """Return the body of ``GET /v1/statements/{id}``, without links."""
        shown = {
            "statement_id": self.statement_id,
            "state": self.state,
            "mode": "async",
            "created_ms": self.created_ms,
            "finished_ms": self.finished_ms,
            "expires_ms": self.expires_ms,
            "columns": self.columns,
            "error": self.error,
            "receipt": self.receipt,
            "progress": None if self.progress is None else self.progress.to_dict(),
        }
        if self.state == "succeeded":
            shown |= {"row_count": self.row_count, "pages": len(self.pages)}
        return {key: value for key, value in shown.items() if value is not None}


class JobStore:
    """Reads and writes jobs. Holds no state of its own.

    prefix : of the blobs' keys; empty, or with a slash at its end
    """

    def __init__(self, kv: KV, blobs: Blobs, clock: Clock, prefix: str = "") -> None:
        self._folder = prefix + _PREFIX
        self._kv = kv
        self._blobs = blobs
        self._clock = clock

    async def create(self, job: Job) -> None:
        """Store a new job."""
        result = await self._kv.txn({_key(job.statement_id): 0}, [Put(_key(job.statement_id), _dump(job))])
        if not result.succeeded:
            raise ConflictError("a statement with this id exists already", statement_id=job.statement_id)

    async def get(self, statement_id: str) -> Job:
        """Return a job. Raises `NotFoundError` for one that is unknown or expired."""
        return (await self._get(statement_id))[0]

    async def update(self, statement_id: str, **changes: Any) -> Job:
        """Change a job's fields; one whose state is final does not change any more. Returns what it is now."""
        while True:
            job, entry = await self._get(statement_id)
            if job.state in FINAL:
                return job
            changed = replace(job, **changes)
            result = await self._kv.txn({entry.key: entry.revision}, [Put(entry.key, _dump(changed))])
            if result.succeeded:
                return changed

    async def put_page(self, statement_id: str, number: int, table: pa.Table) -> Page:
        """Store one page of a result."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        data = sink.getvalue().to_pybytes()
        key = f"{self._folder}{statement_id}/{number:06}.arrow"
        await self._blobs.put(key, data)
        return Page(key, table.num_rows, len(data))

    async def get_page(self, page: Page) -> pa.Table:
        """Return one page of a result."""
        data, _meta = await self._blobs.get(page.key)
        with pa.ipc.open_stream(data) as reader:
            return reader.read_all()

    async def link(self, page: Page, expires_s: int) -> str | None:
        """Return a URL that reads the page without credentials, where the blobs have such."""
        return await self._blobs.presign(page.key, expires_s=expires_s)

    def telling(self, statement_id: str) -> AbstractAsyncContextManager[Tell]:
        """See `service.progress.telling`."""
        return telling(self._kv, self._clock, statement_id)

    async def with_progress(self, job: Job) -> Job:
        """Return the job with how far it is, if it runs and tells."""
        return replace(job, progress=await progress_of(self._kv, job.statement_id)) if job.state == "running" else job

    async def sweep(self) -> int:
        """Delete what has expired; return how many statements that was."""
        entries, _ = await self._kv.range(_PREFIX)
        n_swept = 0
        for entry in entries:
            job = _load(entry)
            if job.expires_ms > self._clock.now_ms():
                continue
            async for meta in self._blobs.list(f"{self._folder}{job.statement_id}/"):
                await self._blobs.delete(meta.key)
            n_swept += (await self._kv.txn({entry.key: entry.revision}, [Put(entry.key, None)])).succeeded
        return n_swept

    async def alive(self, server: str) -> bool:
        """Whether a server still holds its lease."""
        return await self._kv.get(f"servers/{server}") is not None

    async def announce(self, server: str, ttl_s: float) -> int:
        """Put the server's key on a new lease and return the lease."""
        lease = await self._kv.lease_grant(ttl_s)
        await self._kv.txn({}, [Put(f"servers/{server}", b"{}", lease)])
        return lease

    async def keep(self, lease: int) -> None:
        """Keep a server's lease. Raises `NotFoundError` when it has run out."""
        await self._kv.lease_keepalive(lease)

    async def leave(self, lease: int) -> None:
        """Give a server's lease up."""
        await self._kv.lease_revoke(lease)

    async def _get(self, statement_id: str) -> tuple[Job, Entry]:
        entry = await self._kv.get(_key(statement_id))
        job = None if entry is None else _load(entry)
        if entry is None or job is None or job.expires_ms <= self._clock.now_ms():
            raise NotFoundError("no such statement; results expire", statement_id=statement_id)
        return job, entry


async def paged(batches: AsyncIterator[pa.RecordBatch], schema: pa.Schema) -> AsyncGenerator[pa.Table, None]:
    """Cut a result into pages."""
    held: list[pa.RecordBatch] = []
    n_rows = n_bytes = 0
    async for batch in batches:
        row_bytes = max(1, batch.nbytes // max(1, batch.num_rows))
        start = 0
        while start < batch.num_rows:
            room = min(PAGE_ROWS - n_rows, (PAGE_BYTES - n_bytes) // row_bytes)
            if held and room <= 0:
                yield pa.Table.from_batches(held, schema)
                held, n_rows, n_bytes = [], 0, 0
                continue
            part = batch.slice(start, max(1, room))
            start += part.num_rows
            held.append(part)
            n_rows += part.num_rows
            n_bytes += part.num_rows * row_bytes
    if held:
        yield pa.Table.from_batches(held, schema)


def _key(statement_id: str) -> str:
    return _PREFIX + statement_id


def _dump(job: Job) -> bytes:
    value = asdict(job)
    del value["progress"]
    return json.dumps({"version": _VERSION, **value}, default=str).encode()


def _load(entry: Entry) -> Job:
    try:
        value = json.loads(entry.value)
        if value.pop("version") != _VERSION:
            raise ValueError("unknown version")
        value["pages"] = [Page(**page) for page in value["pages"]]
        return Job(**value)
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptError("a statement's record in the catalog does not read", key=entry.key) from error
