"""Pages as a Parquet file in memory: a file of its own for any pages, or one that is kept open for few of a kind.

Of a few pages, making a footer, parsing it and opening readers takes as long as half of decoding them. Look-ups of one
key read the same columns of as many rows each time. So such a file, a *template*, has a slot for each column chunk; it
stays open, and only what lies in its slots is replaced. What a slot holds beyond its pages is zeros, which are no page:
a chunk with too few values is an error, as it is in a file of its own. Arrow copies values out of the pages, so rows
outlive what they were decoded from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from storage.tables.slices.file_schema import MAGIC, FileSchema
from storage.tables.slices.layout import Piece, Span
from storage.tables.slices.thrift import I32, I64, LIST, STRUCT, field, integer, list_of

__all__ = ["Cut", "read_pieces"]

_CHUNK = field(2, I64) + integer(0) + field(1, STRUCT)
_CODEC, _NUMBER, _PAGES, _DICTIONARY = field(1, I32), field(1, I64), field(2, I64), field(2, I64)
_GROUP = field(1, LIST)
_TEMPLATE_BYTES_MAX = 1 << 20
"""Of all slots; beside what is longer its footer weighs little."""
_SLOT_BYTES = 4 << 10
_KINDS_MAX, _SPARE_MAX = 8, 2
"""Templates that a schema keeps: kinds, and of one kind, which as many threads may use at once."""

Cut = Callable[[int, int], list[memoryview]]
"""Gives the bytes from one place of the file to another."""


def read_pieces(schema: FileSchema, pieces: Sequence[Piece], cut: Cut) -> pa.Table:
    """Return the rows of pieces of the same columns, one row group each; raises what pyarrow does."""
    table = _by_template(schema, pieces[0], cut) if len(pieces) == 1 else None
    return table if table is not None else _by_file(schema, pieces, cut)


def _by_file(schema: FileSchema, pieces: Sequence[Piece], cut: Cut) -> pa.Table:
    body: list[bytes | memoryview] = [MAGIC]
    for piece in pieces:
        for head, head_limit, start, limit, _values, _codec in piece.chunks:
            if head < head_limit:
                body += cut(head, head_limit)
            body += cut(start, limit)
    return _open(b"".join((*body, _footer(schema, pieces)))).read(use_threads=False)


def _open(data: bytes | bytearray) -> pq.ParquetFile:
    return pq.ParquetFile(
        pa.BufferReader(pa.py_buffer(data)), coerce_int96_timestamp_unit="us", page_checksum_verification=True,
        pre_buffer=False,
    )  # fmt: skip


def _footer(schema: FileSchema, pieces: Sequence[Piece]) -> bytes:
    """Return the end of a file in which the chunks of the pieces lie one behind the other."""
    frame = schema.frame(pieces[0].columns)
    groups: list[bytes] = []
    at, n_rows = len(MAGIC), 0
    for piece in pieces:
        groups.append(_GROUP + list_of(STRUCT, len(piece.chunks)))
        n_bytes = 0
        for leaf, (head, head_limit, start, limit, values, codec) in zip(frame.leaves, piece.chunks, strict=True):
            size = head_limit - head + limit - start
            sizes = _NUMBER + integer(size)
            places = _PAGES + integer(at + head_limit - head)
            places += _DICTIONARY + integer(at) if head < head_limit else b""
            groups.append(
                b"".join(
                    (_CHUNK, leaf, _CODEC, integer(codec), _NUMBER, integer(values), sizes, sizes, places, b"\0\0")
                )
            )
            at, n_bytes = at + size, n_bytes + size
        rows = piece.limit - piece.start
        groups.append(_NUMBER + integer(n_bytes) + _NUMBER + integer(rows) + b"\0")
        n_rows += rows
    footer = [frame.before, _NUMBER, integer(n_rows), _GROUP, list_of(STRUCT, len(pieces)), *groups, frame.behind]
    return b"".join((*footer, sum(map(len, footer)).to_bytes(4, "little"), MAGIC))


def _by_template(schema: FileSchema, piece: Piece, cut: Cut) -> pa.Table | None:
    """Return the rows of a piece; None if it is long, repeated or has dictionaries: then no template fits the next."""
    n_rows = piece.limit - piece.start
    for head, head_limit, _start, _limit, values, _codec in piece.chunks:
        if head < head_limit or values != n_rows:
            return None
    sizes = [limit - start for _head, _head_limit, start, limit, _values, _codec in piece.chunks]
    kind = (piece.columns, n_rows, tuple([chunk[5] for chunk in piece.chunks]))
    spare = schema.templates.get(kind)
    template = spare.pop() if spare else None
    if template is None or not template.holds(sizes):
        slots = _slots(sizes, template.slots if template is not None else [0] * len(sizes))
        if sum(slots) > _TEMPLATE_BYTES_MAX:
            return None
        template = Template(schema, piece, slots)
    table = template.read([cut(chunk[2], chunk[3]) for chunk in piece.chunks])
    # One whose pages failed is not used again.
    if kind not in schema.templates and len(schema.templates) >= _KINDS_MAX:
        schema.templates.clear()
    spare = schema.templates.setdefault(kind, [])
    if len(spare) < _SPARE_MAX:
        spare.append(template)
    return table


def _slots(sizes: Sequence[int], least: Sequence[int]) -> list[int]:
    """Return how long each slot is: a quarter more than what it has to hold, so that few templates are made anew."""
    steps = (-(-(size + size // 4) // _SLOT_BYTES) for size in sizes)
    return [max(step * _SLOT_BYTES, before) for step, before in zip(steps, least, strict=True)]


class Template:
    """Decodes pages of the same columns, codecs and number of rows, one after another; of one thread at a time."""

    def __init__(self, schema: FileSchema, piece: Piece, slots: Sequence[int]) -> None:
        self.slots = slots
        self._starts: list[int] = []
        chunks: list[Span] = []
        at = len(MAGIC)
        for size, chunk in zip(slots, piece.chunks, strict=True):
            self._starts.append(at)
            chunks.append((at, at, at, at + size, chunk[4], chunk[5]))
            at += size
        alone = Piece(piece.columns, piece.start, piece.limit, chunks)
        data = bytearray(MAGIC).ljust(at, b"\0") + _footer(schema, [alone])
        self._limits = self._starts
        self._view = memoryview(data)
        self._file = _open(data)

    def holds(self, sizes: Sequence[int]) -> bool:
        """Tell whether pages of so many bytes fit the slots."""
        return all(size <= slot for size, slot in zip(sizes, self.slots, strict=True))

    def read(self, pages: Sequence[Sequence[memoryview]]) -> pa.Table:
        """Return the rows of the pages, which are given for each leaf; raises what pyarrow does."""
        limits = []
        for start, before, parts in zip(self._starts, self._limits, pages, strict=True):
            at = start
            for part in parts:
                self._view[at : at + len(part)] = part
                at += len(part)
            if at < before:
                self._view[at:before] = bytes(before - at)
            limits.append(at)
        self._limits = limits
        return self._file.read(use_threads=False)
