"""Avro container blocks in codecs that fastavro cannot decompress without extra packages: snappy and zstandard.

Such a file is rewritten to one without compression, block by block, with pyarrow's own codecs.

Source: Avro 1.12 specification, "Required Codecs", "Optional Codecs".
"""

from __future__ import annotations

import pyarrow as pa

__all__ = ["NEEDS_REWRITING", "uncompressed"]

NEEDS_REWRITING = frozenset({"snappy", "zstandard"})
_SYNC_BYTES = 16
_CHECKSUM_BYTES = 4
BLOCK_BYTES_MAX = 1 << 30


def uncompressed(data: bytes, at: int, codec: str) -> bytes:
    """Return the sync marker and all blocks from offset ``at`` on (that of the sync marker), without compression.

    Raises
    ------
    ValueError
        the blocks are damaged
    """
    sync = data[at : at + _SYNC_BYTES]
    at += _SYNC_BYTES
    parts = [sync]
    while at < len(data):
        count, at = read_long(data, at)
        size, at = read_long(data, at)
        if size < 0 or at + size + _SYNC_BYTES > len(data):
            raise ValueError("the file ends within a block")
        block = _block(data[at : at + size], codec)
        parts += [write_long(count), write_long(len(block)), block, sync]
        at += size + _SYNC_BYTES
    return b"".join(parts)


def _block(raw: bytes, codec: str) -> bytes:
    if codec == "snappy":
        size = _snappy_size(raw)
        if size > BLOCK_BYTES_MAX:
            raise ValueError("a block is too large")
        return bytes(pa.Codec("snappy").decompress(raw[:-_CHECKSUM_BYTES], size))
    with pa.CompressedInputStream(pa.BufferReader(raw), "zstd") as stream:
        block = bytes(stream.read(BLOCK_BYTES_MAX + 1))
    if len(block) > BLOCK_BYTES_MAX:
        raise ValueError("a block is too large")
    return block


def _snappy_size(raw: bytes) -> int:
    size = shift = 0
    for byte in raw[:5]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return size
    raise ValueError("a snappy block has no length")


def read_long(data: bytes, at: int) -> tuple[int, int]:
    """Return the zigzag number at offset ``at`` and the offset behind it."""
    value = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
    raise ValueError("a number is too long")


def write_long(value: int) -> bytes:
    """Return a number that is not negative in Avro's zigzag form."""
    value <<= 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
