"""A log whose writer runs in another process, asked over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from urllib.parse import quote

from functions import tracing
from service.log.http_client import HttpClient
from service.log.owned import EntryRange, decode_range
from service.log.wire import decode_range as range_of
from service.log.wire import decode_receipt, encode_append, unpack
from service.settings import LogAccess
from storage.errors import IndeterminateError, InternalError, UnavailableError, from_wire
from storage.log import AckMode, Receipt, Record
from storage.log.access import LogRange, Touched
from storage.log.records import encode_record
from storage.log.tail import Entry

__all__ = ["RemoteLog"]

_APPEND_S = 60.0
_FLUSH_S = 120.0
_ENCODE_HERE_BYTES = 64 << 10
_PAGE_BYTES = 32 << 20


class RemoteLog:
    """A `storage.log.access.Log` of another process.

    A `FencedError` says that the process does not own the log any more, a `NotReachedError` that it cannot be asked;
    nothing was stored in both cases.
    """

    def __init__(self, client: HttpClient, shard: int, secret: str, settings: LogAccess) -> None:
        self._client = client
        self._path = f"/v1/log/{shard}"
        self._secret = secret
        self._settings = settings

    @property
    def url(self) -> str:
        """Of the owner."""
        return self._client.url

    async def append(
        self, records: Sequence[Record], *, ack: AckMode | None = None, touched: Touched | None = None
    ) -> Receipt:
        """See `storage.log.access.Log.append`. If the answer is lost, the append may have happened."""
        if sum(len(record.body) for record in records) > _ENCODE_HERE_BYTES:
            body = await asyncio.to_thread(self._encode, records, ack, touched)
        else:
            body = self._encode(records, ack, touched)
        receipt = decode_receipt(await self._ask("POST", "/append", body, timeout_s=_APPEND_S))
        if receipt is None:
            raise InternalError("the log's owner answered an append without a receipt", url=self.url)
        return receipt

    def _encode(self, records: Sequence[Record], ack: AckMode | None, touched: Touched | None) -> bytes:
        level = self._settings.writer.compression_level
        return encode_append([encode_record(record, level) for record in records], ack, touched)

    async def find(self, table_id: str, idempotency_key: str) -> Receipt | None:
        """See `storage.log.access.Log.find`."""
        path = f"/find?table={quote(table_id, safe='')}&key={quote(idempotency_key, safe='')}"
        return decode_receipt(await self._look("GET", path, self._settings.wait_s))

    async def read(self, start: int, *, bytes_max: int = 0) -> LogRange:
        """See `storage.log.access.Log.read`; a long range is asked for in parts, all of one epoch."""
        found = await self._read_part(start, bytes_max or _PAGE_BYTES)
        entries: list[Entry] = list(found.entries)
        while found.more and not bytes_max:
            epoch, limit = found.epoch, found.limit
            found = await self._read_part(limit, _PAGE_BYTES)
            if found.epoch != epoch:
                return await self.read(start)
            entries += found.entries
        whole = EntryRange(start, found.limit, entries, found.epoch, found.more)
        return await decode_range(whole, self.url)

    async def _read_part(self, start: int, bytes_max: int) -> EntryRange:
        body = await self._look("GET", f"/read?start={start}&bytes_max={bytes_max}", self._settings.wait_s)
        return await asyncio.to_thread(range_of, body) if len(body) > _ENCODE_HERE_BYTES else range_of(body)

    async def flush(self) -> int:
        """See `storage.log.access.Log.flush`."""
        header, _payload = unpack(await self._look("POST", "/flush", _FLUSH_S))
        return int(header["limit"])

    async def _look(self, method: str, path: str, timeout_s: float) -> bytes:
        """Ask for what changes nothing, so that a lost answer is as good as none."""
        try:
            return await self._ask(method, path, timeout_s=timeout_s)
        except IndeterminateError as error:
            raise UnavailableError(error.message, **error.facts) from error

    async def _ask(self, method: str, path: str, body: bytes = b"", *, timeout_s: float) -> bytes:
        with tracing.span(f"ask the log {path.partition('?')[0]}", {"server.address": self.url}, kind="client") as span:
            answer = await self._client.request(
                method, self._path + path, body, secret=self._secret, timeout_s=timeout_s, traceparent=span.traceparent
            )
        if answer.status == 200:
            return answer.body
        try:
            wire = json.loads(answer.body)
        except ValueError:
            wire = None
        if not isinstance(wire, dict) or "error" not in wire:
            raise InternalError("the log's owner answered in words of its own", url=self.url, status=answer.status)
        raise from_wire(wire)
