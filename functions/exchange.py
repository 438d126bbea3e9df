"""Rows between tasks: Arrow pages, inline where they are few, else blobs with a lifetime, each with its checksum.

A statement's pages lie under ``<lake>/_firnline/results/<expiry in ms, 13 digits>-<statement id>/``, so that a sweep
knows what is over from the name alone (`sweep_results`); a coordinator deletes its own when it ends.

A page is one Arrow IPC stream, compressed with zstd, of rows of one bucket. A writer holds about `HELD_BYTES_MAX` of
rows, a reader about `AHEAD_BYTES_MAX` of pages.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import pyarrow as pa

from functions.tasks import Page
from storage.blobs.local_files import remove_folder
from storage.clock import Clock
from storage.errors import CorruptError, InvalidError, NotFoundError
from storage.stores import Stores, join, normalize

__all__ = ["PAGE_BYTES", "PageWriter", "decode_page", "delete_results", "encode_page", "is_results_prefix",
           "read_pages", "read_streams", "results_prefix", "sweep_results", "write_pages"]  # fmt: skip

RESULTS_FOLDER = "_firnline/results"
_LOCAL = "file://"
PAGE_BYTES = 64 << 20
"""Rows of a page, as they are in memory; one larger row is a page of its own."""
HELD_BYTES_MAX = 256 << 20
AHEAD_BYTES_MAX = 128 << 20
_BATCH_ROWS = 16_384
_PUTS_AT_ONCE = 4
_DELETES_AT_ONCE = 16
_HERE_BYTES = 256 << 10
"""Pages up to this are encoded and decoded on the event loop: a thread would cost more than it frees."""
_NAME = re.compile(r"(\d{13})-([A-Za-z0-9][A-Za-z0-9_.-]{0,199})")
_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")


def results_prefix(lake: str, statement_id: str, expires_ms: int) -> str:
    """Return the location prefix of a statement's pages. Raises `InvalidError` for an id that cannot be a name."""
    name = f"{expires_ms:013d}-{statement_id}"
    if not _NAME.fullmatch(name):
        raise InvalidError("a statement's id is of letters, digits, '_', '.' and '-'", statement_id=statement_id[:200])
    return join(normalize(lake), RESULTS_FOLDER, name) + "/"


def is_results_prefix(location: str) -> bool:
    """Tell whether a location is one that `results_prefix` gives."""
    folder, _, name = location.rstrip("/").rpartition("/")
    return folder.endswith("/" + RESULTS_FOLDER) and _NAME.fullmatch(name) is not None


def encode_page(batches: Sequence[pa.RecordBatch], schema: pa.Schema, bucket: int = 0) -> Page:
    """Return the rows as a page that is in the message."""
    sink = BytesIO()
    n_rows = 0
    with pa.ipc.new_stream(sink, schema, options=_OPTIONS) as writer:
        for batch in _joined([_of_schema(batch, schema) for batch in batches]):
            writer.write_batch(batch)
            n_rows += batch.num_rows
    data = sink.getvalue()
    return Page(n_rows, len(data), hashlib.sha256(data).hexdigest(), bucket, data)


def _joined(batches: Sequence[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the rows in batches of a fair size: joins give some of a few rows, of which each would cost a header."""
    # Dictionaries that differ stay apart, and rows without columns have no arrays to join.
    if not batches or not batches[0].num_columns or "dictionary<" in str(batches[0].schema.types):
        yield from batches
        return
    held: list[pa.RecordBatch] = []
    n_rows = 0
    for batch in batches:
        if held and n_rows + batch.num_rows > _BATCH_ROWS:
            yield pa.concat_batches(held) if len(held) > 1 else held[0]
            held, n_rows = [], 0
        held.append(batch)
        n_rows += batch.num_rows
    yield pa.concat_batches(held) if len(held) > 1 else held[0]


def _of_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the batch under the schema's nullability and metadata; its types are the schema's already."""
    if batch.schema.equals(schema, check_metadata=False) or not len(schema):
        return batch
    return pa.RecordBatch.from_arrays(batch.columns, schema=schema)


def decode_page(page: Page, data: bytes) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a page from its bytes. Raises `CorruptError` if these are not what its checksum says."""
    _check(page, data)
    n_rows = 0
    try:
        with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
            for batch in reader:
                n_rows += batch.num_rows
                yield batch
    except (pa.ArrowException, OSError) as error:
        raise CorruptError("a page of rows cannot be decoded", page=_shown(page), reason=str(error)[:200]) from None
    if n_rows != page.n_rows:
        raise CorruptError("a page has another number of rows", page=_shown(page), n_rows=n_rows, expected=page.n_rows)


def _shown(page: Page) -> str:
    return page.location or "in the message"


class PageWriter:
    """Turns the batches of some buckets into pages as they come.

    Pages stay in the message if all of them together are at most ``inline_bytes_max`` when the rows end; else they are
    blobs ``<prefix><name>-<bucket>-<n>.arrow``, put if absent. Several tasks of one event loop may add rows at a time.
    """

    def __init__(self, stores: Stores, prefix: str, name: str, schema: pa.Schema, *, inline_bytes_max: int) -> None:
        self.n_stored = 0
        self._stores, self._prefix, self._name, self._schema = stores, prefix, name, schema
        self._inline_bytes_max = inline_bytes_max
        self._gate = asyncio.Lock()
        self._held: dict[int, list[pa.RecordBatch]] = defaultdict(list)
        self._bytes: dict[int, int] = defaultdict(int)
        self._numbers: dict[int, int] = defaultdict(int)
        self._puts: set[asyncio.Task[None]] = set()
        self._pages: dict[tuple[int, int], Page] = {}

    async def add(self, bucket: int, batch: pa.RecordBatch) -> None:
        """Take the rows of a batch. Raises what the store raises."""
        if not batch.num_rows:
            return
        for part in _pieces(batch):
            self._held[bucket].append(part)
            self._bytes[bucket] += part.nbytes
            if self._bytes[bucket] >= PAGE_BYTES:
                await self._flush(bucket)
        while sum(self._bytes.values()) > HELD_BYTES_MAX:
            await self._flush(max(self._bytes, key=lambda each: self._bytes[each]))

    async def finish(self) -> list[Page]:
        """Return all pages, by bucket, in the order of their rows. Raises what the store raises, `InvalidError` when
        they are too large for the message and there is no place for them."""
        inline: list[Page] = []
        if not self._pages and not self._puts:
            inline = [await self._encoded(each, held, self._bytes[each]) for each, held in sorted(self._held.items())]
            if sum(page.n_bytes for page in inline) <= self._inline_bytes_max:
                return inline
        for bucket in sorted(self._held):
            page = next((each for each in inline if each.bucket == bucket), None)
            await self._flush(bucket, page)
        await self._settle(0)
        return [self._pages[key] for key in sorted(self._pages)]

    async def abandon(self) -> None:
        """Stop what is being put; what was put ends with its lifetime."""
        for put in self._puts:
            put.cancel()
        await asyncio.gather(*self._puts, return_exceptions=True)
        self._puts.clear()

    async def _encoded(self, bucket: int, held: Sequence[pa.RecordBatch], n_bytes: int) -> Page:
        if n_bytes <= _HERE_BYTES:
            return encode_page(held, self._schema, bucket)
        return await asyncio.to_thread(encode_page, held, self._schema, bucket)

    async def _flush(self, bucket: int, page: Page | None = None) -> None:
        if not is_results_prefix(self._prefix):
            raise InvalidError(
                "the rows are too many for the message, and the task names no place for pages", results=self._prefix
            )
        held, n_bytes = self._held.pop(bucket), self._bytes.pop(bucket)
        number = self._numbers[bucket]
        self._numbers[bucket] += 1
        async with self._gate:
            page = page or await self._encoded(bucket, held, n_bytes)
            await self._settle(_PUTS_AT_ONCE - 1)
            self._puts.add(asyncio.create_task(self._put(bucket, number, page)))

    async def _put(self, bucket: int, number: int, page: Page) -> None:
        assert page.data is not None
        location = f"{self._prefix}{self._name}-{bucket}-{number}.arrow"
        blobs, key = self._stores.resolve(location)
        self._stores.count.put(location)
        await blobs.put(key, page.data, if_absent=True)
        self.n_stored += 1
        self._pages[bucket, number] = Page(page.n_rows, page.n_bytes, page.checksum, bucket, None, location)

    async def _settle(self, n: int) -> None:
        """Wait until at most ``n`` puts are under way."""
        while len(self._puts) > n:
            done, self._puts = await asyncio.wait(self._puts, return_when=asyncio.FIRST_COMPLETED)
            for put in done:
                put.result()


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield the batch in pieces of at most about a page."""
    step = max(1, PAGE_BYTES * batch.num_rows // max(batch.nbytes, 1))
    for start in range(0, batch.num_rows, step):
        yield batch.slice(start, step)


async def write_pages(
    stores: Stores, prefix: str, name: str, buckets: Sequence[Sequence[pa.RecordBatch]], schema: pa.Schema,
    *, inline_bytes_max: int,
) -> list[Page]:  # fmt: skip
    """Return the rows of each bucket as pages: all inline if they are few together, else blobs, many at once.

    A bucket without rows has no page. Raises what the store raises.
    """
    writer = PageWriter(stores, prefix, name, schema, inline_bytes_max=inline_bytes_max)
    try:
        for bucket, batches in enumerate(buckets):
            for batch in batches:
                await writer.add(bucket, batch)
        return await writer.finish()
    except BaseException:
        await writer.abandon()
        raise


async def read_pages(
    stores: Stores, pages: Sequence[Page], *, concurrency: int = 8
) -> AsyncGenerator[pa.RecordBatch, None]:
    """Yield the rows of pages in their order. Raises `CorruptError` naming a page that is not what its checksum says,
    `NotFoundError` for one whose lifetime is over."""
    waiting = deque(pages)
    ahead: deque[tuple[Page, asyncio.Task[bytes]]] = deque()
    held = 0
    try:
        while waiting or ahead:
            while waiting and len(ahead) < concurrency and (not ahead or held + waiting[0].n_bytes <= AHEAD_BYTES_MAX):
                page = waiting.popleft()
                held += page.n_bytes
                ahead.append((page, asyncio.create_task(_fetch(stores, page))))
            page, fetch = ahead[0]
            data = await fetch
            here = len(data) <= _HERE_BYTES
            batches = _decoded(page, data) if here else await asyncio.to_thread(_decoded, page, data)
            ahead.popleft()
            held -= page.n_bytes
            for batch in batches:
                yield batch
    finally:
        for _page, fetch in ahead:
            fetch.cancel()
        await asyncio.gather(*(fetch for _page, fetch in ahead), return_exceptions=True)


async def read_streams(stores: Stores, pages: Sequence[Page], *, concurrency: int = 8) -> list[bytes]:
    """Return the Arrow IPC streams that pages are, in their order, as they were written. Raises as `read_pages`."""
    gate = asyncio.Semaphore(concurrency)

    async def one(page: Page) -> bytes:
        async with gate:
            data = await _fetch(stores, page)
            if len(data) <= _HERE_BYTES:
                _check(page, data)
            else:
                await asyncio.to_thread(_check, page, data)
            return data

    fetches = [asyncio.ensure_future(one(page)) for page in pages]
    try:
        return list(await asyncio.gather(*fetches))
    finally:
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)


def _check(page: Page, data: bytes) -> None:
    if len(data) != page.n_bytes or hashlib.sha256(data).hexdigest() != page.checksum:
        raise CorruptError(
            "a page of rows is not what was written", page=_shown(page), n_bytes=len(data), expected=page.n_bytes
        )


def _decoded(page: Page, data: bytes) -> list[pa.RecordBatch]:
    return list(decode_page(page, data))


async def _fetch(stores: Stores, page: Page) -> bytes:
    if page.data is not None:
        return page.data
    assert page.location is not None
    try:
        return await stores.get(page.location)
    except NotFoundError:
        raise NotFoundError(
            "a page of rows is gone: the statement is over, or ran past its lifetime", page=page.location
        ) from None


async def delete_results(stores: Stores, prefix: str) -> int:
    """Delete a statement's pages; return how many. Raises `InvalidError` for a prefix that is no statement's."""
    if not is_results_prefix(prefix):
        raise InvalidError("this is no place of a statement's pages", results=prefix)
    blobs, key = stores.resolve(prefix.rstrip("/"))
    stores.count.put(prefix)  # a listing has the price of a put, deletions have none
    keys = [meta.key async for meta in blobs.list(key + "/")]
    n = await _delete(stores, prefix, keys)
    if prefix.startswith(_LOCAL):
        await asyncio.to_thread(remove_folder, Path(prefix.removeprefix(_LOCAL)))
    return n


async def sweep_results(stores: Stores, lake: str, clock: Clock) -> int:
    """Delete the pages of statements whose lifetime is over; return how many.

    May be run by anyone, and again. Raises what the lake's blobs raise.
    """
    blobs, prefix = stores.resolve(join(normalize(lake), RESULTS_FOLDER))
    now_ms, over = clock.now_ms(), []
    async for meta in blobs.list(prefix + "/"):
        name = meta.key.removeprefix(prefix + "/").partition("/")[0]
        found = _NAME.fullmatch(name)
        if found is not None and int(found[1]) > now_ms:
            break  # names come in the order of their expiry
        if found is not None:
            over.append(meta.key)
    n = await _delete(stores, normalize(lake), over)
    if normalize(lake).startswith(_LOCAL):
        await asyncio.to_thread(_sweep_folders, Path(f"/{prefix}"), now_ms)
    return n


def _sweep_folders(results: Path, now_ms: int) -> None:
    """Remove the folders of statements whose lifetime is over; a store of objects has none."""
    for folder in results.iterdir() if results.is_dir() else ():
        found = _NAME.fullmatch(folder.name)
        if found is not None and int(found[1]) <= now_ms:
            remove_folder(folder)


async def _delete(stores: Stores, location: str, keys: Sequence[str]) -> int:
    blobs, _key = stores.resolve(location.rstrip("/"))
    gate = asyncio.Semaphore(_DELETES_AT_ONCE)

    async def one(key: str) -> None:
        async with gate:
            await blobs.delete(key)

    await asyncio.gather(*map(one, keys))
    return len(keys)
