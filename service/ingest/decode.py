"""A body and its Content-Type into rows of a table's schema."""

from __future__ import annotations

import zlib
from typing import Literal

import pyarrow as pa
import zstandard

from service.ingest.columns import Decoded
from service.ingest.csv_rows import CsvOptions, decode_csv
from service.ingest.json_rows import decode_json, decode_ndjson
from storage.errors import InvalidError, TooLargeError, UnsupportedError

__all__ = ["MEDIA_TYPES", "RowFormat", "decode", "decompress", "format_of"]

RowFormat = Literal["json", "ndjson", "csv", "arrow", "parquet"]

MEDIA_TYPES: dict[str, RowFormat] = {
    "application/json": "json",
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "text/csv": "csv",
    "application/vnd.apache.arrow.stream": "arrow",
    "application/vnd.apache.arrow.file": "arrow",
    "application/vnd.apache.parquet": "parquet",
    "application/parquet": "parquet",
}
_PIECE_BYTES = 4096


class MediaTypeError(UnsupportedError):
    """The body is of a type that nobody reads here; status 415."""

    http_status = 415


def format_of(content_type: str, *, from_a_page: bool = False) -> RowFormat:
    """Return which format a Content-Type names; none means JSON, unless a web page sent it.

    Raises `UnsupportedError`.
    """
    name, _, options = content_type.partition(";")
    name = name.strip().lower()
    charset = options.lower().partition("charset=")[2].strip(' "')
    if charset and charset.split(";")[0].strip(' "') not in ("utf-8", "utf8", "us-ascii"):
        raise MediaTypeError("send text as UTF-8", charset=charset[:40])
    if name in ("", "application/x-www-form-urlencoded") and not from_a_page:
        return "json"
    if name not in MEDIA_TYPES:
        raise MediaTypeError(f"rows come as one of {', '.join(MEDIA_TYPES)}", content_type=name[:80])
    return MEDIA_TYPES[name]


def decode(body: bytes, form: RowFormat, schema: pa.Schema, options: CsvOptions | None = None) -> Decoded:
    """Return the body's rows in ``schema``, all checked.

    Raises
    ------
    InvalidError
        Its facts hold ``row`` (from 1), ``column``, ``line`` for text formats, and the ``value``, where known.
    TooLargeError
        It would take up too much memory.
    """
    if form == "json":
        return decode_json(body, schema)
    if form == "ndjson":
        return decode_ndjson(body, schema)
    if form == "csv":
        return decode_csv(body, schema, options)
    # Imported here: pyarrow.parquet costs 40 ms, and most bodies are not Parquet.
    from service.ingest.arrow_rows import decode_arrow, decode_parquet

    return decode_arrow(body, schema) if form == "arrow" else decode_parquet(body, schema)


def decompress(body: bytes, encoding: str, bytes_max: int) -> bytes:
    """Undo a Content-Encoding. Raises `TooLargeError` past ``bytes_max``, `InvalidError` for what is no such data."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name in ("gzip", "x-gzip"):
        return _gunzip(body, bytes_max)
    if name == "zstd":
        return _unzstd(body, bytes_max)
    raise MediaTypeError("send bodies plain, with gzip or with zstd", content_encoding=name[:40])


def _gunzip(body: bytes, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    left = bytes_max
    try:
        while body:
            member = zlib.decompressobj(31)
            part = member.decompress(body, left + 1)
            left -= len(part)
            if left < 0:
                raise _too_large(bytes_max)
            parts.append(part)
            if not member.eof:
                raise InvalidError("the gzip body is cut off")
            body = member.unused_data
    except zlib.error as error:
        raise InvalidError(f"the body is no gzip: {error}") from None
    return b"".join(parts)


def _unzstd(body: bytes, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    left = bytes_max
    frame = None
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    try:
        # Small pieces: a few bytes may hold 128 KiB, and no call says how much it may return.
        for start in range(0, len(body), _PIECE_BYTES):
            piece = body[start : start + _PIECE_BYTES]
            while piece:
                frame = frame or decompressor.decompressobj()
                part = frame.decompress(piece)
                left -= len(part)
                if left < 0:
                    raise _too_large(bytes_max)
                parts.append(part)
                piece = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise InvalidError(f"the body is no zstd: {str(error)[:100]}") from None
    if frame is not None:
        raise InvalidError("the zstd body is cut off")
    return b"".join(parts)


def _too_large(bytes_max: int) -> TooLargeError:
    return TooLargeError("the body is too large once it is decompressed; send it in parts", bytes_max=bytes_max)
