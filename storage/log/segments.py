"""What fills a slot: a segment of records, or a seal. And the base, the one head of a log.

Keys are ``<log>/segments/<epoch, 20 digits>-<sequence, 20 digits>``, so they sort as positions do.
The layouts are in ``storage/log/README.md``.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from storage.errors import CorruptError, UnsupportedError
from storage.log import Position
from storage.log.records import checksum_of, split_records

__all__ = [
    "RECORDS_MAX",
    "Segment",
    "base_key",
    "decode_base",
    "decode_segment",
    "encode_base",
    "encode_seal",
    "encode_segment",
    "slot_key",
    "slot_of",
    "slots_prefix",
]

VERSION = 1
RECORDS_MAX = 1 << 20
_PAYLOAD_BYTES_MAX = 1 << 30
_MAGIC = b"FIRNSEG\n"
_HEADER = struct.Struct("<8sHHIQQQQQQII")
_DATA, _SEAL = 1, 2
_NAME = re.compile(r"(\d{20})-(\d{20})")
_BASE_MAGIC = b"FIRNBASE"
_BASE = struct.Struct("<8sHHQI")


@dataclass(frozen=True, slots=True)
class Segment:
    """What is in a slot: records, or for a seal none.

    Attributes
    ----------
    slot : which slot it fills
    records : encoded, each verified
    sealed_by : the epoch that goes on, or 0 for a segment of records
    created_ms : when its writer made it
    """

    slot: Position
    records: list[bytes]
    sealed_by: int
    created_ms: int

    @property
    def next_slot(self) -> Position:
        """The slot that follows in the chain."""
        if self.sealed_by:
            return Position(self.sealed_by, self.slot.sequence)
        return Position(self.slot.epoch, self.slot.sequence + len(self.records))


def slots_prefix(log: str) -> str:
    """What the keys of all slots begin with."""
    return f"{log}/segments/"


def slot_key(log: str, slot: Position) -> str:
    """The key of a slot."""
    return f"{slots_prefix(log)}{slot.epoch:020d}-{slot.sequence:020d}"


def slot_of(log: str, key: str) -> Position:
    """The slot of a key. Raises `CorruptError` for a blob that is none of ours."""
    match = _NAME.fullmatch(key.removeprefix(slots_prefix(log)))
    if match is None:
        raise CorruptError("a blob among the segments is not one; move it away", key=key)
    return Position(int(match[1]), int(match[2]))


def encode_segment(slot: Position, records: list[bytes], *, created_ms: int, writer: int) -> bytes:
    """A segment of encoded records; ``writer`` is a random 64-bit number by which its writer knows it again."""
    payload = b"".join(records)
    return _header(_DATA, slot, len(records), 0, created_ms, len(payload), writer, checksum_of(records)) + payload


def encode_seal(slot: Position, sealed_by: int, *, created_ms: int, writer: int) -> bytes:
    """The end of an epoch: ``sealed_by`` goes on from here."""
    return _header(_SEAL, slot, 0, sealed_by, created_ms, 0, writer, checksum_of([]))


def _header(
    kind: int, slot: Position, n: int, sealed_by: int, created_ms: int, n_bytes: int, writer: int, checksum: int
) -> bytes:
    unchecked = _HEADER.pack(
        _MAGIC, VERSION, kind, n, slot.epoch, slot.sequence, sealed_by, created_ms, n_bytes, writer, checksum, 0
    )[:-4]
    return unchecked + struct.pack("<I", zlib.crc32(unchecked))


def decode_segment(data: bytes, slot: Position, key: str) -> Segment:
    """Return what is in the slot, every byte of it verified.

    Raises `CorruptError`, which names the segment and the record and tells a truncated blob from a damaged one;
    `UnsupportedError` for a format that is newer than this program.
    """
    if len(data) < _HEADER.size:
        raise CorruptError("the segment is truncated in its header", segment=key, bytes=len(data), need=_HEADER.size)
    magic, version, kind, n, epoch, first, sealed_by, created_ms, n_bytes, _writer, checksum, header_checksum = (
        _HEADER.unpack_from(data)
    )
    if magic != _MAGIC:
        raise CorruptError("the blob is not a segment, or its magic is damaged", segment=key)
    if zlib.crc32(data[: _HEADER.size - 4]) != header_checksum:
        raise CorruptError("the segment's header is damaged", segment=key)
    if version != VERSION:
        raise UnsupportedError("the segment has a format that this version does not know", segment=key, format=version)
    sealed = kind == _SEAL and n == 0 and n_bytes == 0 and sealed_by > epoch
    filled = kind == _DATA and 0 < n <= RECORDS_MAX and n_bytes <= _PAYLOAD_BYTES_MAX and sealed_by == 0
    if Position(epoch, first) != slot or not (sealed or filled):
        raise CorruptError("the segment's header makes no sense under this key", segment=key)
    have = len(data) - _HEADER.size
    if have < n_bytes:
        raise CorruptError("the segment is truncated", segment=key, bytes=have, need=n_bytes)
    records = split_records(data[_HEADER.size :], n, first, key)
    if checksum_of(records) != checksum:
        raise CorruptError("the segment's records are not those it was written with", segment=key)
    return Segment(slot, records, sealed_by, created_ms)


def base_key(log: str) -> str:
    """The key of the base."""
    return f"{log}/base"


def encode_base(sequence: int) -> bytes:
    """The first sequence that must be readable."""
    unchecked = _BASE.pack(_BASE_MAGIC, VERSION, 0, sequence, 0)[:-4]
    return unchecked + struct.pack("<I", zlib.crc32(unchecked))


def decode_base(data: bytes, key: str) -> int:
    """Return the sequence. Raises `CorruptError`, `UnsupportedError`."""
    if len(data) != _BASE.size or data[:8] != _BASE_MAGIC:
        raise CorruptError("the log's base is damaged or truncated", key=key)
    _magic, version, _reserved, sequence, checksum = _BASE.unpack(data)
    if zlib.crc32(data[:-4]) != checksum:
        raise CorruptError("the log's base is damaged", key=key)
    if version != VERSION:
        raise UnsupportedError("the log's base has a format that this version does not know", key=key, format=version)
    return int(sequence)
