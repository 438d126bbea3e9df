"""Layouts of Parquet files, read from their footers and offset indexes, mostly in one request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from storage.errors import ConflictError, CorruptError, UnsupportedError
from storage.stores import Stores
from storage.tables.slices.file_schema import MAGIC
from storage.tables.slices.footer import Chunk, Footer, Group, Pages, parse_footer, parse_offset_index
from storage.tables.slices.layout import BLOCK_ROWS, Chunks, FileLayout, block_rows_of

__all__ = ["read_layouts"]

TAIL_BYTES = 64 << 10
"""Most footers fit, and the offset index in front of them; a larger one costs a second request."""
CONCURRENT_READS = 32
PAGES_MIN = 4
"""A row group of one block is read by pages if every column has as many: decoding one takes less than decoding all."""
_PAGE_BYTES_MIN = 7
_GIVE_UP = (b"parquet-cpp-arrow", b"parquet-rs", b"parquet-mr")
"""Writers that code no page by the dictionary once one of the column chunk is not."""
_GROUP_ROWS_PAGED_MAX = 1 << 31


async def read_layouts(stores: Stores, files: Sequence[tuple[str, int, str]]) -> list[FileLayout | str]:
    """Return the layout of each (location, size in bytes, etag or ""), or why it has none (not Parquet, encrypted, …).

    Raises `CorruptError` naming a file that is damaged.
    """
    gate = asyncio.Semaphore(CONCURRENT_READS)

    async def one(location: str, size: int, etag: str) -> FileLayout | str:
        async with gate:
            try:
                return await _read_layout(stores, location, size, etag)
            except UnsupportedError as error:
                return error.message
            except ConflictError:
                return "it is not the file that the table knows: its etag is another"
            except CorruptError as error:
                error.facts.setdefault("file", location)
                raise

    return list(await asyncio.gather(*(one(*file) for file in files)))


async def _read_layout(stores: Stores, location: str, size: int, etag: str) -> FileLayout:
    if size < 12:
        raise UnsupportedError("it is not a Parquet file")
    tail_start = max(0, size - TAIL_BYTES)
    tail, etag = await stores.get_range_with_etag(location, tail_start, size, if_match=etag)
    if tail[-4:] == b"PARE":
        raise UnsupportedError("it is encrypted (Parquet modular encryption)")
    if tail[-4:] != MAGIC or len(tail) < 12:
        raise UnsupportedError("it is not a Parquet file")
    length = int.from_bytes(tail[-8:-4], "little")
    if length > size - 12:
        raise CorruptError("the footer's length is beyond the file", footer_bytes=length, bytes=size)
    if length + 8 > len(tail):
        tail_start = size - 8 - length
        tail, etag = await stores.get_range_with_etag(location, tail_start, size, if_match=etag)
    footer = tail[len(tail) - 8 - length : -8]
    # A footer of thousands of column chunks takes tenths of a second: let others run meanwhile.
    parse = await asyncio.to_thread(parse_footer, footer, size) if length > TAIL_BYTES else parse_footer(footer, size)
    groups = _paged_groups(parse)
    spans = [(chunk.index_start, chunk.index_start + chunk.index_bytes) for group in groups for chunk in group.chunks]
    if spans and min(start for start, _limit in spans) >= tail_start:
        parts = [tail[start - tail_start : limit - tail_start] for start, limit in spans]
    else:
        parts = await stores.get_ranges(location, spans, if_match=etag) if spans else []
    return _layout(parse, groups, parts, etag)


def _paged_groups(parse: Footer) -> list[Group]:
    """The row groups that are worth to be read by pages, and can be."""
    return [
        group
        for group in parse.groups
        if group.n_rows < _GROUP_ROWS_PAGED_MAX
        and min((chunk.index_bytes for chunk in group.chunks), default=0)
        >= (1 if _is_large(group) else PAGES_MIN * _PAGE_BYTES_MIN)
    ]


def _is_large(group: Group) -> bool:
    return group.n_rows > 2 * BLOCK_ROWS


def _layout(parse: Footer, groups: Sequence[Group], parts: Sequence[bytes], etag: str) -> FileLayout:
    """Put the arrays together; ``parts`` are the offset indexes of ``groups``, chunk by chunk."""
    pages: list[Pages | None] = []
    paged: list[bool] = []
    left = iter(parts)
    cut = set(map(id, groups))
    for group in parse.groups:
        found = (
            [parse_offset_index(next(left), chunk, group.n_rows) for chunk in group.chunks] if id(group) in cut else []
        )
        usable = all(each and (_is_large(group) or len(each[0]) >= PAGES_MIN) for each in found) and bool(found)
        paged.append(usable)
        pages += found if usable else [None] * len(group.chunks)
    group_rows = np.array([0, *accumulate(group.n_rows for group in parse.groups)], np.int64)
    chunks = [chunk for group in parse.groups for chunk in group.chunks]
    # The head of a chunk with pages is what lies in front of the first: some writers name no dictionary.
    heads = [
        each[1][0] - chunk.start if each else chunk.data - chunk.start
        for chunk, each in zip(chunks, pages, strict=True)
    ]
    extra = [chunk.values - group.n_rows for group in parse.groups for chunk in group.chunks]
    gives_up = parse.schema.created_by.startswith(_GIVE_UP)
    coded = [_coded(chunk, len(each[0]), gives_up) if each else 0 for chunk, each in zip(chunks, pages, strict=True)]
    return FileLayout(
        int(group_rows[-1]), etag, block_rows_of(group_rows, np.array(paged, bool)), parse.schema, group_rows,
        Chunks(
            _ints(chunk.start for chunk in chunks), _ints(heads), _ints(chunk.size for chunk in chunks), _ints(extra),
            _ints(chunk.codec for chunk in chunks), _ints(coded),
            _ints(accumulate((len(each[0]) if each else 0 for each in pages), initial=0)),
            *(_ints(value for each in pages if each for value in each[part]) for part in range(3)),
        ),
    )  # fmt: skip


def _coded(chunk: Chunk, n_pages: int, gives_up: bool) -> int:
    """How many of the first pages may be coded by the dictionary."""
    return chunk.coded if gives_up and 0 <= chunk.coded <= chunk.n_pages == n_pages else n_pages


def _ints(values: object) -> np.ndarray:
    return np.fromiter(values, np.int64)  # type: ignore[call-overload, no-any-return]
