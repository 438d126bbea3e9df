"""Whole jobs on one table as tasks of workers: files merged and segments of indexes built there, named by who asked.

1. A job is a pure function of immutable files: it is sent again when its worker is lost, and nothing of it counts until
   its caller commits what it made. What attempts leave that nobody names is swept: data files by VACUUM, segments by
   `functions.index.keep.sweep_segments`, pages by their lifetime.
2. What a worker says is checked: its signature, that its files lie in the table and hold all rows, that a segment is
   what its checksum says.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from catalog.indexes import INLINE_BYTES_MAX, IndexEntry, SegmentRef
from catalog.kv import KV
from catalog.tables import TableEntry, Tables
from functions import tracing
from functions.catalog_part import catalog_part
from functions.compact import Merging
from functions.exchange import delete_results, read_pages, results_prefix
from functions.file_facts import decode_files
from functions.fold import ManagedTable
from functions.index.maintain import Fitted
from functions.index.models import segment_location
from functions.tasks import Reply, Task, TaskKind, decode_reply, encode_task
from service.coordinate.terms import Terms, Workers
from service.coordinate.verdict import attempts_of, verdict
from storage.clock import Clock
from storage.errors import CorruptError, FirnlineError, NotFoundError, from_wire
from storage.stores import Stores
from storage.tables.snapshot import Snapshot

if TYPE_CHECKING:
    from storage.tables.write import DataFile

__all__ = ["Jobs"]

_log = logging.getLogger("firnline.coordinate")
_GRACE_MS = 600_000
_LONGEST_MS = 24 * 3600 * 1000
"""Of a job where settings limit none."""
_AT_ONCE_MAX = 16
"""Merges that wait for their turn to be committed; each may be of a few hundred MB."""
_DAMAGED = (KeyError, TypeError, ValueError, AttributeError)


class Jobs:
    """Jobs on the tables of one lake."""

    def __init__(self, workers: Workers, stores: Stores, kv: KV, clock: Clock, lake: str) -> None:
        self._workers, self._stores, self._kv, self._clock, self._lake = workers, stores, kv, clock, lake
        self._tables = Tables(kv, clock)
        self._terms = Terms("", workers.secret)

    async def merging(self) -> Merging:
        """Return workers as a place where `functions.compact.optimize` merges. Raises what reaching them raises."""
        invoker = await self._workers.open_invoker()
        return Merging(self.merge, max(1, min(invoker.limits.concurrency or _AT_ONCE_MAX, _AT_ONCE_MAX)))

    async def merge(self, table: ManagedTable, indices: Sequence[int]) -> list[DataFile]:
        """Have files merged; return those that replace them, which are in no table yet.

        Raises `ConflictError` if the table moved on, `CorruptError` if a worker's files are not what was asked for,
        else what the last attempt failed with.
        """
        snapshot = table.snapshot
        files = [snapshot.files.paths[index] for index in indices]
        reply, prefix = await self._asked("compact", await self._body(table.entry, snapshot) | {"files": files})
        try:
            added = [file async for batch in read_pages(self._stores, reply.pages) for file in decode_files(batch)]
        finally:
            if any(page.location is not None for page in reply.pages):
                await self._clean(prefix)
        place = snapshot.location.rstrip("/") + "/"
        outside = [file.location for file in added if not file.location.startswith(place)]
        known = snapshot.files.n_rows[list(indices)]
        exact = not any(index in snapshot.files.deletes for index in indices) and bool((known >= 0).all())
        n_rows = sum(file.n_rows for file in added)
        if outside or (exact and n_rows != int(known.sum())):
            raise CorruptError(
                "a worker merged files into others than were asked for", file=outside[0] if outside else None,
                n_rows=n_rows, expected=int(known.sum()) if exact else None,
            )  # fmt: skip
        return added

    async def fit(self, index: IndexEntry, snapshot: Snapshot, files: Sequence[int]) -> Fitted:
        """Have a segment built and stored (`functions.index.maintain.Fit`). Raises as `merge`."""
        paths = snapshot.files.paths
        numbers = {paths[number]: number for number in files}
        entry = await self._entry(index.table_id)
        body = await self._body(entry, snapshot) | {"index": index.name, "files": list(numbers)}
        reply, _prefix = await self._asked("fit", body)
        try:
            told = reply.body["segment"]
            ref = None if told is None else SegmentRef(**told)
            skipped = {numbers[path]: str(why) for path, why in reply.body["skipped"].items()}
        except _DAMAGED as error:
            raise CorruptError("a worker's segment is not as it should be", reason=repr(error)[:200]) from None
        if ref is None or ref.n_bytes > INLINE_BYTES_MAX:
            return Fitted(ref, b"", skipped)
        # Small ones are kept in the catalog, where a look-up has them without a request.
        location = segment_location(self._lake, index.table_id, ref.id)
        data = await self._stores.get(location)
        if hashlib.sha256(data).hexdigest() != ref.checksum:
            raise CorruptError("a segment is not what its worker wrote", segment=location)
        blobs, key = self._stores.resolve(location)
        await blobs.delete(key)
        return Fitted(replace(ref, inline=True), data, skipped)

    async def _entry(self, table_id: str) -> TableEntry:
        for each in await self._tables.all():
            if each.id == table_id:
                return each
        raise NotFoundError("the table of an index was dropped", table=table_id)

    async def _body(self, entry: TableEntry, snapshot: Snapshot) -> dict[str, Any]:
        return {
            "catalog": await catalog_part(self._kv, entry),
            "lake": self._lake,
            "table": [entry.namespace, entry.name],
            "version": snapshot.version,
        }

    async def _asked(self, kind: TaskKind, body: dict[str, Any]) -> tuple[Reply, str]:
        """Return a job's reply, and the prefix of its pages; a lost worker's job is sent again."""
        terms, failed, throttled = self._terms, 0, 0
        name = f"{kind}-{self._clock.new_id()[:16]}"
        attempt = 0
        while True:
            attempt += 1
            deadline_ms = self._clock.now_ms() + (self._workers.timeout_ms or _LONGEST_MS)
            prefix = results_prefix(self._lake, name, deadline_ms + _GRACE_MS)
            task = Task(kind, name, "0.0", body, deadline_ms=deadline_ms, results=prefix, attempt=attempt)
            try:
                return await self._attempt(task), prefix
            except FirnlineError as error:
                asks = verdict(error, of_reply=isinstance(error, _ReplyError))
                slower = asks == "slower"
                throttled, failed = throttled + slower, failed + (not slower)
                most = attempts_of(error, terms.attempts_max)
                if asks == "fail" or failed >= most or throttled >= terms.throttles_max:
                    raise
                most_s = min(terms.backoff_s * 2.0 ** min(attempt, 16), terms.backoff_max_s)
                wait_s = self._clock.uniform(most_s / 4, most_s)
                asked_s = error.facts.get("retry_after_s", 0)
                if isinstance(asked_s, (int, float)):
                    wait_s = max(wait_s, min(float(asked_s), terms.backoff_max_s))
                _log.info("a job is sent again: %s: %s", type(error).__name__, error)
                await asyncio.sleep(wait_s)

    async def _attempt(self, task: Task) -> Reply:
        about: tracing.Attributes = {"firnline.task_id": task.statement_id, "firnline.attempt": task.attempt}
        with tracing.span(f"task {task.kind}", about, kind="client") as span:
            invoker = await self._workers.open_invoker()
            message = encode_task(replace(task, traceparent=span.traceparent), self._workers.secret)
            data = await invoker.invoke(message, timeout_ms=self._workers.timeout_ms)
            try:
                reply = decode_reply(data, self._workers.secret, task)
            except CorruptError as error:
                raise _ReplyError(error.message, **error.facts) from None
            if reply.error is not None:
                raise from_wire(dict(reply.error))
            return reply

    async def _clean(self, prefix: str) -> None:
        try:
            await delete_results(self._stores, prefix)
        except FirnlineError as error:
            _log.warning("pages are left for the sweep: %s", error)


class _ReplyError(CorruptError):
    """The reply itself was damaged, which says nothing of stored bytes."""
