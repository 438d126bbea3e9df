"""Results as bytes: JSON, NDJSON, CSV, Arrow IPC streams and Parquet, streamed.

Promises, for every format:

1. A chunk has at most 2 MiB, and an encoder fails only between whole rows (JSON, NDJSON, CSV) or messages (Arrow).
2. Nothing is yielded before 64 KiB are ready or the result has ended, so a small result fails before its first byte.
3. When the batches raise, so does the encoder, and what it yielded so far does not read as a complete result:
   JSON lacks its closing brackets and receipt, Arrow its end-of-stream mark, Parquet its footer. NDJSON and CSV have
   no end mark of their own: whoever sends them must cut the transfer, and may send `error_tail` first.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from service.statement import Format, Receipt, Result
from service.streams import Stream, close_stream
from service.text import TEXT, cells, json_text
from storage.errors import UnsupportedError

__all__ = ["CONTENT_TYPES", "FORMATS", "Chunk", "columns_of", "encode", "error_tail", "type_name", "unique_names"]

_CHUNK_BYTES = 1 << 20
_CHUNK_BYTES_MIN = 64 << 10
_SLICE_BYTES = 1 << 20
_SLICE_ROWS = 16_384
_ROW_GROUP_ROWS = 122_880
_ROW_GROUP_BYTES = 64 << 20
_ARROW_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"

CONTENT_TYPES: dict[Format, str] = {
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "arrow": "application/vnd.apache.arrow.stream",
    "csv": "text/csv; charset=utf-8; header=present",
    "parquet": "application/vnd.apache.parquet",
}
FORMATS: tuple[Format, ...] = tuple(CONTENT_TYPES)

Chunk = bytes | memoryview
Piece = tuple[Chunk, ...]
"""Bytes that belong together: no error comes between them."""


def encode(
    kind: Format, result: Result, *, statement_id: str, extra: Callable[[], dict[str, Any]] = dict
) -> Stream[Chunk]:
    """Return the result in the format; at its end it closes the batches.

    ``extra()`` gives further top-level JSON members once the rows are out.

    Raises what the result's batches raise, and `UnsupportedError` for a column that the format cannot hold.
    """
    if kind == "json":
        pieces = _json(result, statement_id, extra)
    elif kind == "parquet":
        pieces = _parquet(result)
    elif kind == "arrow":
        pieces = _arrow(result)
    else:
        pieces = _lines(result, _ndjson_rows if kind == "ndjson" else _csv_rows, kind == "csv")
    return Stream(_coalesced(pieces), partial(close_stream, result.batches))


def error_tail(kind: Format, problem: dict[str, Any]) -> bytes:
    """What to send after the last chunk of a result that failed in mid-stream, before the transfer is cut."""
    if kind == "json":
        return b'],"error":' + _dump(problem) + b"}"
    if kind == "ndjson":
        return b'{"error":' + _dump(problem) + b"}\n"
    return b""


def type_name(kind: pa.DataType) -> str:
    """Return the name of a column type as JSON answers give it; how strings are laid out does not show."""
    text = str(kind)
    for layout in ("large_", "_view"):
        if text in (f"{layout}string", f"{layout}binary", f"string{layout}", f"binary{layout}"):
            return text.replace(layout, "")
    return text


def columns_of(schema: pa.Schema) -> list[dict[str, str]]:
    """Return the ``columns`` member of a JSON answer."""
    return [{"name": field.name, "type": type_name(field.type)} for field in schema]


def unique_names(names: Iterable[str]) -> list[str]:
    """Return the names with repeated ones numbered (``a``, ``a_2``, ``a_3``), for formats that need them distinct."""
    given = list(names)
    taken, seen, unique = set(given), set[str](), []
    for name in given:
        candidate, number = name, 2
        while candidate in seen or (candidate != name and candidate in taken):
            candidate, number = f"{name}_{number}", number + 1
        seen.add(candidate)
        unique.append(candidate)
    return unique


async def _coalesced(pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[Chunk, None]:
    """Gather small pieces to 64 KiB and split large ones at 1 MiB."""
    held: list[Chunk] = []
    size = 0
    async with aclosing(pieces):
        async for piece in pieces:
            held += piece
            size += sum(map(len, piece))
            if size >= _CHUNK_BYTES_MIN:
                for chunk in _chunks(held, size):
                    yield chunk
                held, size = [], 0
    if size:
        for chunk in _chunks(held, size):
            yield chunk


def _chunks(pieces: list[Chunk], size: int) -> Iterator[Chunk]:
    whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if size <= 2 * _CHUNK_BYTES:
        yield whole
        return
    view = memoryview(whole)
    step = -(-size // (size // _CHUNK_BYTES))
    for start in range(0, size, step):
        yield view[start : start + step]


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str, allow_nan=False).encode()


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut a batch so that each slice's text stays around 1 MiB."""
    n_rows = batch.num_rows
    if not n_rows:
        return
    per_row = max(1, batch.nbytes // n_rows) + 8 * batch.num_columns
    step = max(1, min(_SLICE_ROWS, _SLICE_BYTES // per_row))
    for start in range(0, n_rows, step):
        yield batch.slice(start, step)


def _joined_rows(parts: list[pa.Array | str], n_rows: int, separator: str) -> memoryview:
    """Concatenate the parts row by row, then the rows with the separator; a null part reads ``null``."""
    if not any(isinstance(part, pa.Array) for part in parts):
        return memoryview(separator.join(["".join(map(str, parts))] * n_rows).encode())
    scalars = [pa.scalar(part, TEXT) if isinstance(part, str) else part for part in parts]
    rows = pc.binary_join_element_wise(*scalars, pa.scalar("", TEXT), null_handling="replace", null_replacement="null")
    whole = pa.ListArray.from_arrays(pa.array([0, n_rows], pa.int32()), rows)
    return memoryview(pc.binary_join(whole, pa.scalar(separator, TEXT))[0].as_buffer())


async def _json(result: Result, statement_id: str, extra: Callable[[], dict[str, Any]]) -> AsyncGenerator[Piece, None]:
    head = {"statement_id": statement_id, "columns": columns_of(result.schema)}
    yield (_dump(head)[:-1] + b',"rows":[',)
    n_rows = 0
    async for batch in result.batches:
        for part in _slices(batch):
            yield (b",[" if n_rows else b"[", _json_rows(part), b"]")
            n_rows += part.num_rows
    tail = {"row_count": n_rows, **extra(), "receipt": _final(result.receipt, n_rows)}
    yield (b"]," + _dump(tail)[1:],)


def _final(receipt: Receipt, n_rows: int) -> dict[str, Any]:
    found = receipt.to_dict()
    found["rows"] = found.get("rows") or n_rows
    return found


def _json_rows(batch: pa.RecordBatch) -> memoryview:
    parts: list[pa.Array | str] = []
    for position, column in enumerate(batch.columns):
        parts += [",", json_text(column)] if position else [json_text(column)]
    return _joined_rows(parts, batch.num_rows, "],[")


async def _lines(
    result: Result, rows: Callable[[pa.RecordBatch, list[str]], Chunk], header: bool
) -> AsyncGenerator[Piece, None]:
    names = [field.name for field in result.schema]
    if header:
        yield (",".join(map(_csv_name, names)).encode() + b"\r\n",)
    keys = [json.dumps(name, ensure_ascii=False) for name in unique_names(names)]
    async for batch in result.batches:
        for part in _slices(batch):
            yield (rows(part, keys), b"\r\n" if header else b"\n")


def _ndjson_rows(batch: pa.RecordBatch, keys: list[str]) -> memoryview:
    parts: list[pa.Array | str] = [] if batch.num_columns else ["{"]
    for position, (key, column) in enumerate(zip(keys, batch.columns, strict=True)):
        parts += [f"{',' if position else '{'}{key}:", json_text(column)]
    return _joined_rows([*parts, "}"], batch.num_rows, "\n")


def _csv_rows(batch: pa.RecordBatch, _keys: list[str]) -> memoryview:
    parts: list[pa.Array | str] = []
    for position, column in enumerate(batch.columns):
        text = pc.fill_null(_csv_text(column), pa.scalar("", TEXT))
        parts += [",", text] if position else [text]
    return _joined_rows(parts, batch.num_rows, "\r\n")


def _csv_text(column: pa.Array) -> pa.Array:
    """Return a column's CSV fields: null is nothing at all, the empty string is ``""``."""
    found = cells(column)
    if found.kind not in ("string", "json"):
        return found.text
    dressed = pc.or_(pc.match_substring_regex(found.text, '[",\r\n]'), pc.equal(found.text, pa.scalar("", TEXT)))
    if not pc.any(dressed).as_py():
        return found.text
    doubled = pc.replace_substring(found.text, '"', '""')
    quote = pa.scalar('"', TEXT)
    return pc.if_else(dressed, pc.binary_join_element_wise(quote, doubled, quote, pa.scalar("", TEXT)), found.text)


def _csv_name(name: str) -> str:
    if name and not any(mark in name for mark in '",\r\n'):
        return name
    return '"' + name.replace('"', '""') + '"'


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type that every Arrow and Parquet reader knows: views and run ends become plain arrays."""
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_run_end_encoded(kind) or pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    return kind


def _plain_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    if batch.schema.equals(schema, check_metadata=False):
        return batch
    columns = []
    for column, field in zip(batch.columns, schema, strict=True):
        if pa.types.is_run_end_encoded(column.type):
            column = pc.run_end_decode(column)
        columns.append(column if column.type == field.type else pc.cast(column, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _plain_schema(schema: pa.Schema, names: list[str]) -> pa.Schema:
    fields = [field.with_name(name).with_type(_plain(field.type)) for name, field in zip(names, schema, strict=True)]
    return pa.schema(fields, metadata=schema.metadata)


async def _arrow(result: Result) -> AsyncGenerator[Piece, None]:
    schema = _plain_schema(result.schema, result.schema.names)
    yield (memoryview(schema.serialize()),)
    async for batch in result.batches:
        if batch.num_rows:
            yield (memoryview(_plain_batch(batch, schema).serialize()),)
    yield (_ARROW_END,)


class _Sink:
    """The file that a Parquet writer writes to; `take` returns what has come since."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing to close."""

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


async def _parquet(result: Result) -> AsyncGenerator[Piece, None]:
    import pyarrow.parquet as pq

    schema = _plain_schema(result.schema, unique_names(result.schema.names))
    sink = _Sink()
    try:
        writer = pq.ParquetWriter(sink, schema, compression="zstd")
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise UnsupportedError("parquet cannot hold a column of this result; ask for arrow", why=str(error)) from None
    async for group in _row_groups(result, schema):
        try:
            writer.write_table(group, row_group_size=_ROW_GROUP_ROWS)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            raise UnsupportedError(
                "parquet cannot hold a value of this result; ask for arrow", why=str(error)
            ) from None
        yield (sink.take(),)
    writer.close()
    yield (sink.take(),)


async def _row_groups(result: Result, schema: pa.Schema) -> AsyncIterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    n_rows = n_bytes = 0
    async for batch in result.batches:
        held.append(_plain_batch(batch.rename_columns(schema.names), schema))
        n_rows += batch.num_rows
        n_bytes += batch.nbytes
        if n_rows >= _ROW_GROUP_ROWS or n_bytes >= _ROW_GROUP_BYTES:
            yield pa.Table.from_batches(held, schema)
            held, n_rows, n_bytes = [], 0, 0
    if n_rows:
        yield pa.Table.from_batches(held, schema)
