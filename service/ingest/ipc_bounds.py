"""What an Arrow IPC stream would take up once its buffers are decompressed, read off its messages' headers.

Arrow allocates what a buffer claims before it looks at it, and a few bytes of zstd may claim a terabyte. The headers
are flatbuffers (Arrow's ``format/Message.fbs``); Arrow has verified each before it is looked at here.
"""

from __future__ import annotations

import struct

import pyarrow as pa

from storage.errors import TooLargeError

__all__ = ["check_ipc_stream"]

_DICTIONARY, _RECORD = 2, 3
_HEADER_TYPE, _HEADER = 1, 2
_BUFFERS, _COMPRESSION = 2, 3
_DICTIONARY_DATA = 1


def check_ipc_stream(body: bytes, bytes_max: int) -> None:
    """Raise `TooLargeError` if the stream's buffers claim more than ``bytes_max`` bytes.

    Raises `ValueError` or Arrow's own errors for what is no stream.
    """
    total = 0
    for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(body)):
        total += _claimed(message)
        if total > bytes_max:
            raise TooLargeError("the Arrow stream is too large once it is unpacked", bytes_max=bytes_max)


def _claimed(message: pa.ipc.Message) -> int:
    data = message.metadata.to_pybytes()
    try:
        root = _u32(data, 0)
        kind_at, header_at = _field(data, root, _HEADER_TYPE), _field(data, root, _HEADER)
        if not kind_at or not header_at or data[kind_at] not in (_DICTIONARY, _RECORD):
            return 0
        batch = header_at + _u32(data, header_at)
        if data[kind_at] == _DICTIONARY:
            data_at = _field(data, batch, _DICTIONARY_DATA)
            if not data_at:
                return 0
            batch = data_at + _u32(data, data_at)
        body = message.body
        if body is None or not _field(data, batch, _COMPRESSION):
            return 0 if body is None else int(body.size)
        return _decompressed(data, batch, memoryview(body))
    except (struct.error, IndexError):
        raise ValueError("a message's header cannot be read") from None


def _decompressed(data: bytes, batch: int, body: memoryview) -> int:
    vector_at = _field(data, batch, _BUFFERS)
    if not vector_at:
        return 0
    vector = vector_at + _u32(data, vector_at)
    total = 0
    for index in range(_u32(data, vector)):
        offset, length = struct.unpack_from("<qq", data, vector + 4 + 16 * index)
        if length >= 8 and 0 <= offset <= len(body) - 8:
            (claimed,) = struct.unpack_from("<q", body, offset)
            if claimed < -1:
                raise ValueError("a buffer has a negative length")
            total += length if claimed == -1 else claimed
    return total


def _field(data: bytes, table: int, number: int) -> int:
    """Return where a table's field is; 0 if it has none."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", data, vtable)[0]:
        return 0
    (offset,) = struct.unpack_from("<H", data, vtable + 4 + 2 * number)
    return table + offset if offset else 0


def _u32(data: bytes, place: int) -> int:
    (value,) = struct.unpack_from("<I", data, place)
    return int(value)
