"""Deletion vectors: which rows of a data file are deleted, as a 64-bit Roaring bitmap.

Stored form, in a ``.bin`` file at an offset: size (int32, big endian), data, CRC-32 of the data (big endian).
Data: magic 1681511377 (int32, little endian), number of buckets (int64, little endian), then per bucket its upper
32 bits and a 32-bit Roaring bitmap in the portable form. Inline vectors are the data alone in Z85 (ZeroMQ RFC 32).
An older form, which the protocol's own inline example has: magic 1681511376, number of buckets (int32), then per
bucket, from 0 up, its size (int32) and bitmap; integers in the byte order that the magic shows.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from storage.errors import CorruptError, NotFoundError, UnsupportedError
from storage.stores import join
from storage.tables.delta.paths import file_location
from storage.tables.snapshot import LoadedDeletes

if TYPE_CHECKING:
    from pyroaring import BitMap64

    from storage.stores import Stores

__all__ = ["DeletionVector", "DeltaDeletes", "decode_bitmap", "decode_z85"]

_MAGIC = struct.pack("<i", 1681511377)
_OLD_MAGICS = {struct.pack("<i", 1681511376): "<", struct.pack(">i", 1681511376): ">"}
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_Z85_VALUE = {character: value for value, character in enumerate(_Z85)}
_UUID_CHARS = 20


@dataclass(frozen=True, slots=True)
class DeletionVector:
    """The descriptor in the log.

    storage : ``u`` (path from a prefix and a UUID), ``p`` (path) or ``i`` (inline)
    offset : bytes from the start of the file; None where the descriptor has none, which for a file means 0
    size : bytes of the data, without size and checksum
    cardinality : number of deleted rows
    """

    storage: str
    path: str
    offset: int | None
    size: int
    cardinality: int

    @property
    def unique_id(self) -> str:
        """The protocol's unique id of the vector."""
        suffix = "" if self.offset is None else f"@{self.offset}"
        return f"{self.storage}{self.path}{suffix}"


@dataclass(frozen=True, slots=True)
class DeltaDeletes:
    """Delete information of one data file of ``table``: a deletion vector."""

    table: str
    data_file: str
    vector: DeletionVector

    async def load(self, stores: object) -> LoadedDeletes:
        """Read, verify and decode the vector. Raises `CorruptError` naming the file, `UnsupportedError`."""
        if self.vector.storage == "i":
            where = self.data_file
            data = _inline_data(self.vector, where)
        else:
            where = vector_location(self.table, self.vector)
            data = await _stored_data(cast("Stores", stores), where, self.vector)
        return LoadedDeletes(decode_bitmap(data, where, self.vector.cardinality))


def vector_location(table: str, vector: DeletionVector) -> str:
    """Location of the file that holds a stored vector."""
    if vector.storage == "p":
        return file_location(table, vector.path)
    if vector.storage != "u":
        raise UnsupportedError("unknown kind of delta deletion vector", table=table, storage=repr(vector.storage))
    prefix, encoded = vector.path[:-_UUID_CHARS], vector.path[-_UUID_CHARS:]
    try:
        name = f"deletion_vector_{uuid.UUID(bytes=decode_z85(encoded))}.bin"
    except ValueError:
        raise CorruptError("a deletion vector's path does not decode", table=table, path=repr(vector.path)) from None
    return join(table, prefix, name) if prefix else join(table, name)


def _inline_data(vector: DeletionVector, where: str) -> bytes:
    try:
        data = decode_z85(vector.path)
    except ValueError:
        raise CorruptError("an inline deletion vector does not decode", file=where) from None
    if not 0 <= vector.size <= len(data) < vector.size + 4:
        raise CorruptError("an inline deletion vector has the wrong size", file=where, size=vector.size)
    return data[: vector.size]


async def _stored_data(stores: Stores, where: str, vector: DeletionVector) -> bytes:
    start = vector.offset or 0
    if start < 0 or vector.size < 0:
        raise CorruptError("a deletion vector has an impossible place", file=where, offset=start, size=vector.size)
    try:
        stored = await stores.get_range(where, start, start + vector.size + 8)
    except NotFoundError:
        raise CorruptError("a deletion vector's file is missing", file=where) from None
    if len(stored) != vector.size + 8:
        raise CorruptError("a deletion vector's file is too short", file=where, offset=start)
    data = stored[4:-4]
    (size,) = struct.unpack(">i", stored[:4])
    (checksum,) = struct.unpack(">I", stored[-4:])
    if size != vector.size:
        raise CorruptError("a deletion vector has the wrong size", file=where, offset=start, expected=vector.size)
    if checksum != zlib.crc32(data):
        raise CorruptError("a deletion vector fails its checksum", file=where, offset=start)
    return data


def decode_bitmap(data: bytes, where: str, cardinality: int) -> np.ndarray:
    """Return the deleted row numbers, int64, sorted. Raises `CorruptError` naming ``where``."""
    if len(data) < 8 or not (data[:4] == _MAGIC or data[:4] in _OLD_MAGICS):
        raise CorruptError("a deletion vector has an unknown format", file=where, magic=data[:4].hex())
    try:
        bitmap = _portable(data) if data[:4] == _MAGIC else _old(data, _OLD_MAGICS[data[:4]])
    except Exception as error:  # noqa: BLE001 - pyroaring raises what it likes on damaged bytes
        raise CorruptError("a deletion vector does not decode", file=where, cause=str(error)) from None
    if len(bitmap) != cardinality:
        raise CorruptError(
            "a deletion vector has the wrong cardinality", file=where, expected=cardinality, found=len(bitmap)
        )
    if cardinality and bitmap.max() >= 1 << 63:
        raise CorruptError("a deletion vector names an impossible row", file=where)
    return np.array(bitmap.to_array(), dtype=np.int64)


def _portable(data: bytes) -> BitMap64:
    from pyroaring import BitMap64

    # A bucket takes 12 bytes at least: a count that the bytes cannot hold is refused before anything is allocated.
    (n_buckets,) = struct.unpack_from("<q", data, 4)
    if not 0 <= n_buckets <= (len(data) - 12) // 12 + 1:
        raise ValueError("impossible number of buckets")
    return BitMap64.deserialize(data[4:])


def _old(data: bytes, order: str) -> BitMap64:
    from pyroaring import BitMap64

    (n_buckets,) = struct.unpack_from(f"{order}i", data, 4)
    buckets, start = [], 8
    for bucket in range(n_buckets):
        (size,) = struct.unpack_from(f"{order}I", data, start)
        buckets.append(struct.pack("<I", bucket) + data[start + 4 : start + 4 + size])
        start += 4 + size
    return BitMap64.deserialize(struct.pack("<q", len(buckets)) + b"".join(buckets))


def decode_z85(text: str) -> bytes:
    """Decode Z85: five characters to four bytes. Raises ValueError."""
    if len(text) % 5:
        raise ValueError("length is not a multiple of five")
    out = bytearray()
    for start in range(0, len(text), 5):
        value = 0
        for character in text[start : start + 5]:
            if character not in _Z85_VALUE:
                raise ValueError("not a Z85 character")
            value = value * 85 + _Z85_VALUE[character]
        if value >= 1 << 32:
            raise ValueError("group out of range")
        out += value.to_bytes(4, "big")
    return bytes(out)
