"""The stored form of layouts: their numbers column by column, each as narrow as it can be, compressed.

=========  =====================================================================================================
bytes      what
=========  =====================================================================================================
4          ``FLAY``
1          version, 1
4          crc32 of all that follows
8          bytes of the body before compression
rest       the body, zstd: sections, each its length (8 bytes), its type (`numpy` character) and its bytes
=========  =====================================================================================================

All numbers are little endian. The sections, in order: texts (schemas, then etags, each with its length in front),
then for each file its schema's number, row groups and blocks; then for all files together the rows of each row group
and block, the arrays of `Chunks` as differences from what is likely, and those of the pages.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa

from storage.errors import CorruptError, UnsupportedError
from storage.tables.slices.file_schema import FileSchema
from storage.tables.slices.layout import Chunks, FileLayout, block_rows_of

__all__ = ["pack", "unpack"]

_MAGIC, _VERSION = b"FLAY", 1
_BODY_BYTES_MAX = 4 << 30
_TYPES: dict[str, type[np.signedinteger[Any]]] = {"b": np.int8, "h": np.int16, "i": np.int32, "q": np.int64}
_HEADER_BYTES = 17
_CHUNK_ARRAYS, _PAGE_ARRAYS = 7, 3
_KEPT_BYTES_MAX = 16 << 20
"""Of layouts that were made, for all files of one `pack`; in narrow sections they take an eighth to a third of it."""


def pack(layouts: Sequence[FileLayout]) -> bytes:
    """Return the stored form of layouts: compact, shared parts once."""
    schemas = {schema: number for number, schema in enumerate(dict.fromkeys(each.file_schema for each in layouts))}
    texts = [text for each in schemas for text in (each.elements, each.arrow, each.created_by)]
    chunks = [each.chunks for each in layouts]
    pages = [np.diff(each.page_first) for each in chunks]
    sections = [
        [schemas[each.file_schema] for each in layouts],
        [len(each.groups) - 1 for each in layouts],
        np.concatenate([_NONE, *(np.diff(each.groups) for each in layouts)]),
        np.concatenate([_NONE, *(_gaps(each.start, each.start + each.size, 0) for each in chunks)]),
        *(np.concatenate([_NONE, *(getattr(each, name) for each in chunks)]) for name in _PLAIN),
        np.concatenate([_NONE, *pages]),
        np.concatenate([_NONE, *(_page_rows(each) for each in chunks)]),
        np.concatenate([_NONE, *(_page_gaps(each) for each in chunks)]),
        np.concatenate([_NONE, *(each.page_size for each in chunks)]),
    ]
    body = b"".join(
        (
            _texts(texts),
            _texts([each.etag.encode() for each in layouts]),
            *(_section(np.asarray(values, np.int64)) for values in sections),
        )
    )
    rest: bytes = len(body).to_bytes(8, "little") + pa.compress(body, codec="zstd", asbytes=True)
    return _MAGIC + bytes((_VERSION,)) + zlib.crc32(rest).to_bytes(4, "little") + rest


_NONE = np.zeros(0, np.int64)
_PLAIN = ("head", "size", "extra", "codec", "coded")


def _gaps(starts: np.ndarray, limits: np.ndarray, first: int) -> np.ndarray:
    """How far each start lies behind the limit before it: 0 for nearly all."""
    return starts - np.concatenate([[first], limits[:-1]]) if len(starts) else _NONE


def _first_of(chunks: Chunks) -> np.ndarray:
    """The numbers of those pages that are the first of a chunk."""
    first: np.ndarray = chunks.page_first[:-1][np.diff(chunks.page_first) > 0]
    return first


def _page_rows(chunks: Chunks) -> np.ndarray:
    """Rows between each page's start and the one before; 0 for the first of a chunk."""
    rows = np.diff(chunks.page_row, prepend=0)
    rows[_first_of(chunks)] = 0
    return rows


def _page_gaps(chunks: Chunks) -> np.ndarray:
    """Bytes between each page's start and where the page before ends, or for the first the chunk's pages begin."""
    gaps = _gaps(chunks.page_start, chunks.page_start + chunks.page_size, 0)
    gaps[_first_of(chunks)] = 0
    return gaps


def _texts(values: Sequence[bytes]) -> bytes:
    lengths = np.array([len(value) for value in values], "<i8")
    return _bytes(b"q", lengths.tobytes()) + _bytes(b"t", b"".join(values))


def _section(values: np.ndarray) -> bytes:
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    code = next(code for code, kind in _TYPES.items() if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    narrow = values.astype(np.dtype(code).newbyteorder("<"))
    # All first bytes, then all second ones: what varies little lies together.
    return _bytes(code.encode(), narrow.view(np.uint8).reshape(-1, narrow.itemsize).T.tobytes())


def _bytes(code: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + code + data


def unpack(data: bytes) -> Layouts:
    """Return the layouts of `pack`, each made when it is first asked for. Raises `CorruptError`."""
    if len(data) < _HEADER_BYTES or data[:4] != _MAGIC or data[4] != _VERSION:
        raise CorruptError("these are no stored layouts, or of a later version")
    if zlib.crc32(data[9:]) != int.from_bytes(data[5:9], "little"):
        raise CorruptError("stored layouts fail their checksum")
    n_bytes = int.from_bytes(data[9:17], "little")
    if n_bytes > _BODY_BYTES_MAX:
        raise CorruptError("stored layouts are larger than they can be", bytes=n_bytes)
    try:
        return Layouts(_Sections(pa.decompress(data[17:], n_bytes, codec="zstd", asbytes=True)))
    except (ValueError, OSError, pa.ArrowException, UnsupportedError, UnicodeDecodeError) as error:
        raise CorruptError("stored layouts are damaged", reason=str(error)) from error


class _Sections:
    """Reads the body from its start."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    def ints(self) -> np.ndarray:
        data, code = self._next()
        kind = np.dtype(_TYPES[code]).newbyteorder("<")
        return np.frombuffer(data, np.uint8).reshape(kind.itemsize, -1).T.copy().view(kind).reshape(-1)

    def texts(self) -> list[bytes]:
        lengths, data = np.frombuffer(self._next()[0], "<i8"), self._next()[0]
        if len(lengths) and (lengths.min() < 0 or lengths.sum() != len(data)):
            raise ValueError("texts do not fill their section")
        ends = np.cumsum(lengths).tolist()
        return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def _next(self) -> tuple[bytes, str]:
        length = int.from_bytes(self._body[self._at : self._at + 8], "little")
        code, start = chr(self._body[self._at + 8]), self._at + 9
        self._at = start + length
        if self._at > len(self._body):
            raise ValueError("a section goes beyond the end")
        return self._body[start : self._at], code


class Layouts(Sequence[FileLayout]):
    """Layouts, each made when it is asked for; the last ones are kept.

    n_bytes : of the sections in memory, and of all layouts that may be kept
    """

    def __init__(self, sections: _Sections) -> None:
        texts = sections.texts()
        self._schemas = [FileSchema(*texts[at : at + 3]) for at in range(0, len(texts), 3)]
        self._etags = [text.decode() for text in sections.texts()]
        self._schema_of, n_groups = sections.ints(), sections.ints()
        n_leaves = np.array([schema.n_leaves for schema in self._schemas], np.int64)
        self._group_first = _firsts(n_groups)
        self._chunk_first = _firsts(n_groups * n_leaves[self._schema_of])
        self._group_rows = sections.ints()
        self._gaps = sections.ints()
        self._plain = {name: sections.ints() for name in _PLAIN}
        self._page_count = sections.ints()
        self._pages = sections.ints(), sections.ints(), sections.ints()
        self._page_first = _firsts(self._page_count)
        counts = {len(self._gaps), len(self._page_count), int(self._chunk_first[-1]), *map(len, self._plain.values())}
        if len(self._etags) != len(n_groups) or len(self._group_rows) != self._group_first[-1] or len(counts) > 1:
            raise ValueError("sections do not fit each other")
        if {len(part) for part in self._pages} != {int(self._page_first[-1])} or self._group_rows.min(initial=0) < 0:
            raise ValueError("sections of pages do not fit each other")
        self._kept: dict[int, FileLayout] = {}
        self._kept_bytes = 0
        per_group = (self._group_first, self._group_rows)
        per_chunk = (self._chunk_first, self._gaps, *self._plain.values(), self._page_count, self._page_first)
        stored = sum(int(each.nbytes) for each in (self._schema_of, *per_group, *per_chunk, *self._pages))
        wide = 8 * (len(self._group_rows) + _CHUNK_ARRAYS * len(self._gaps) + _PAGE_ARRAYS * len(self._pages[0]))
        self.n_bytes = stored + min(_KEPT_BYTES_MAX, wide)

    def __len__(self) -> int:
        return len(self._etags)

    @overload
    def __getitem__(self, at: int) -> FileLayout: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[FileLayout]: ...
    def __getitem__(self, at: int | slice) -> FileLayout | Sequence[FileLayout]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        number = range(len(self))[at]
        found = self._kept.get(number)
        if found is None:
            found = self._layout(number)
            n_bytes = _wide_bytes(found)
            if self._kept_bytes + n_bytes > _KEPT_BYTES_MAX:
                self._kept.clear()
                self._kept_bytes = 0
            self._kept[number] = found
            self._kept_bytes += n_bytes
        return found

    def _layout(self, number: int) -> FileLayout:
        mine = slice(int(self._group_first[number]), int(self._group_first[number + 1]))
        groups = _firsts(self._group_rows[mine])
        chunks = self._chunks(slice(int(self._chunk_first[number]), int(self._chunk_first[number + 1])))
        schema = self._schemas[int(self._schema_of[number])]
        paged: np.ndarray = np.zeros(len(groups) - 1, bool)
        if schema.n_leaves:
            paged = np.diff(chunks.page_first).reshape(-1, schema.n_leaves).min(axis=1) > 0
        return FileLayout(
            int(groups[-1]), self._etags[number], block_rows_of(groups, paged), schema, groups, chunks
        )  # fmt: skip

    def _chunks(self, mine: slice) -> Chunks:
        head, size, extra, codec, coded = (self._plain[name][mine].astype(np.int64) for name in _PLAIN)
        start = np.cumsum(self._gaps[mine] + np.concatenate([[0], size[:-1]])) if len(size) else _NONE
        page_first = self._page_first[mine.start : mine.stop + 1] - self._page_first[mine.start]
        pages = slice(int(self._page_first[mine.start]), int(self._page_first[mine.stop]))
        rows, gaps, sizes = (part[pages].astype(np.int64) for part in self._pages)
        counts = np.diff(page_first)
        return Chunks(
            start, head, size, extra, codec, coded, page_first,
            _sums_within(rows, counts), _page_starts(gaps, sizes, counts, start + head), sizes,
        )  # fmt: skip


def _wide_bytes(layout: FileLayout) -> int:
    chunks = layout.chunks
    return 8 * (len(layout.groups) + _CHUNK_ARRAYS * len(chunks.start) + _PAGE_ARRAYS * len(chunks.page_row))


def _firsts(counts: np.ndarray) -> np.ndarray:
    """Return int64[n + 1]: where each begins when they lie one after another."""
    if counts.min(initial=0) < 0:
        raise ValueError("a count is negative")
    out = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=out[1:], dtype=np.int64)
    return out


def _sums_within(steps: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return running sums of the steps, anew for each chunk of pages."""
    sums = np.cumsum(steps)
    first = np.cumsum(counts) - counts
    before: np.ndarray = np.concatenate([[0], sums])[first]
    return np.asarray(sums - np.repeat(before, counts))


def _page_starts(gaps: np.ndarray, sizes: np.ndarray, counts: np.ndarray, bases: np.ndarray) -> np.ndarray:
    """Return where pages start: each behind the one before, the first where the chunk's pages begin."""
    if not len(gaps):
        return _NONE
    steps = gaps + np.concatenate([[0], sizes[:-1]])
    steps[(np.cumsum(counts) - counts)[counts > 0]] = 0
    return np.asarray(_sums_within(steps, counts) + np.repeat(bases, counts))
