"""One record as bytes. It does not know its position, so it is moved between journal and segments as it is.

Checksums are CRC-32 (`zlib.crc32`): in the standard library, 1 GB/s here, the GIL released for large records, and any
burst of up to 32 flipped bits is found at any length. The layout is in ``storage/log/README.md``.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator
from functools import partial

import zstandard

from storage.errors import CorruptError, InvalidError, TooLargeError
from storage.log import BODY_BYTES_MAX, KEY_BYTES_MAX, TABLE_ID_BYTES_MAX, Record, RecordKind

__all__ = ["checksum_of", "decode_header", "decode_record", "encode_record", "split_records"]

_HEADER = struct.Struct("<IBBHHHII")
_CHECKSUM = struct.Struct("<I")
_OVERHEAD = _HEADER.size + _CHECKSUM.size
_RECORD_BYTES_MAX = BODY_BYTES_MAX + TABLE_ID_BYTES_MAX + KEY_BYTES_MAX + _OVERHEAD
_STORED, _ZSTD = 0, 1
_compressors = threading.local()


def encode_record(record: Record, level: int) -> bytes:
    """Return the record as stored, its body compressed with zstd where that helps.

    Raises `InvalidError` for ids and keys out of their limits, `TooLargeError` for the body.
    """
    table_id, key = _encode_names(record)
    if not 0 <= record.schema_id < 1 << 32:
        raise InvalidError("a schema id is from 0 to 2³²-1", schema_id=record.schema_id)
    if len(record.body) > BODY_BYTES_MAX:
        raise TooLargeError("the record is too large; append it in parts", bytes=len(record.body), max=BODY_BYTES_MAX)
    codec, body = _STORED, record.body
    compressed = _compressor(level).compress(body)
    if len(compressed) < len(body):
        codec, body = _ZSTD, compressed
    size = _OVERHEAD + len(table_id) + len(key) + len(body)
    header = _HEADER.pack(
        size, record.kind.value, codec, len(table_id), len(key), 0, record.schema_id, len(record.body)
    )
    unchecked = b"".join((header, table_id, key, body))
    return unchecked + _CHECKSUM.pack(zlib.crc32(unchecked))


def _compressor(level: int) -> zstandard.ZstdCompressor:
    """Return this thread's compressor: making one costs several times what compressing a single row does."""
    found: zstandard.ZstdCompressor | None = getattr(_compressors, str(level), None)
    if found is None:
        found = zstandard.ZstdCompressor(level=level, write_content_size=True)
        setattr(_compressors, str(level), found)
    return found


def _encode_names(record: Record) -> tuple[bytes, bytes]:
    try:
        table_id = record.table_id.encode()
        key = (record.idempotency_key or "").encode()
    except UnicodeEncodeError:
        raise InvalidError("table ids and idempotency keys must be valid Unicode") from None
    if not 0 < len(table_id) <= TABLE_ID_BYTES_MAX:
        raise InvalidError("a table id has 1 to 256 bytes", bytes=len(table_id))
    if record.idempotency_key is not None and not 0 < len(key) <= KEY_BYTES_MAX:
        raise InvalidError("an idempotency key has 1 to 256 bytes", bytes=len(key))
    return table_id, key


def checksum_of(records: list[bytes]) -> int:
    """CRC-32 over the records' own checksums in order: no record is missing, doubled or out of order."""
    return zlib.crc32(b"".join([record[-4:] for record in records]))


def split_records(payload: bytes, n_records: int, first_sequence: int, where: str) -> list[bytes]:
    """Return the encoded records of a payload, each verified. Raises `CorruptError` naming ``where`` and the record."""
    return list(_each_record(payload, n_records, partial(_corrupt, where, first_sequence)))


def _corrupt(where: str, first_sequence: int, index: int, reason: str) -> CorruptError:
    return CorruptError(
        f"a record of the log is damaged: {reason}", segment=where, record=index, sequence=first_sequence + index
    )


def _each_record(payload: bytes, n_records: int, corrupt: partial[CorruptError]) -> Iterator[bytes]:
    start = 0
    for index in range(n_records):
        if len(payload) - start < _OVERHEAD:
            raise corrupt(index, "it is cut off")
        (size,) = _CHECKSUM.unpack_from(payload, start)
        if not _OVERHEAD <= size <= _RECORD_BYTES_MAX or start + size > len(payload):
            raise corrupt(index, "its size is wrong")
        record = payload[start : start + size]
        if zlib.crc32(memoryview(record)[:-4]) != _CHECKSUM.unpack_from(record, size - 4)[0]:
            raise corrupt(index, "its checksum does not match")
        yield record
        start += size
    if start != len(payload):
        raise corrupt(n_records, "bytes follow the last one")


def decode_record(data: bytes, where: str) -> Record:
    """Return the record of bytes that `split_records` verified. Raises `CorruptError` naming ``where``."""
    return _decode(data, where, with_body=True)


def decode_header(data: bytes, where: str) -> Record:
    """Return the record without its body, which is not looked at. Raises `CorruptError` naming ``where``."""
    return _decode(data, where, with_body=False)


def _decode(data: bytes, where: str, *, with_body: bool) -> Record:
    _size, kind, codec, n_table, n_key, reserved, schema_id, n_body = _HEADER.unpack_from(data)
    start = _HEADER.size
    limit = len(data) - _CHECKSUM.size
    if start + n_table + n_key > limit or n_body > BODY_BYTES_MAX or reserved != 0 or codec not in (_STORED, _ZSTD):
        raise CorruptError("a record's header makes no sense", segment=where)
    body_start = start + n_table + n_key
    try:
        return Record(
            data[start : start + n_table].decode(),
            schema_id,
            RecordKind(kind),
            _decode_body(data[body_start:limit], codec, n_body) if with_body else b"",
            data[start + n_table : body_start].decode() or None,
        )
    except (ValueError, zstandard.ZstdError) as error:
        raise CorruptError("a record cannot be decoded", segment=where, reason=str(error)) from error


def _decode_body(stored: bytes, codec: int, n_body: int) -> bytes:
    """Never allocates more than ``n_body`` bytes. Raises `ValueError` or `ZstdError`."""
    if codec == _STORED:
        body = stored
    elif zstandard.frame_content_size(stored) == n_body:
        body = zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
    else:
        raise ValueError("the body's two sizes differ")
    if len(body) != n_body:
        raise ValueError("the body has another size than its header says")
    return body
