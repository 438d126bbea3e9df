"""A stored form of named arrays: a header in JSON and sections, each with its checksum.

::

    offset  size  field
    0       4     magic ``FNIX``
    4       2     version, 1
    6       2     0
    8       4     bytes of the header
    12      4     CRC-32 of the header
    16      h     header: JSON; spaces up to a multiple of eight
    16 + h        sections in the header's order, zeros up to a multiple of eight behind each

Numbers are little-endian. The header's ``sections`` say of each: name, numpy type, bytes as they are, bytes stored,
CRC-32 of what is stored with its zeros. A section whose stored bytes are fewer is one zstd frame.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import zstandard

from storage.errors import CorruptError

__all__ = ["VERSION", "pack_sections", "unpack_sections"]

VERSION = 1
SECTION_BYTES_MAX = 1 << 34
_MAGIC = b"FNIX"
_HEAD = struct.Struct("<4sHHII")
_KINDS = frozenset({"|u1", "<u2", "<u4", "<i4", "<u8", "<i8", "<f8"})
_WORTH_IT = 0.9
"""Compressed bytes per byte, from which a section is stored as it is: it is read without a copy."""


def pack_sections(header: Mapping[str, Any], sections: Mapping[str, np.ndarray]) -> bytes:
    """Return the stored form of JSON values and one-dimensional arrays."""
    compressor = zstandard.ZstdCompressor(level=3, write_content_size=True)
    described, bodies = [], []
    for name, array in sections.items():
        array = np.ascontiguousarray(array)
        kind = array.dtype.newbyteorder("<").str if array.dtype.itemsize > 1 else "|u1"
        plain = array.astype(kind, copy=False).tobytes()
        packed = compressor.compress(plain)
        stored = packed if len(packed) < _WORTH_IT * len(plain) else plain
        padded = stored + b"\0" * (-len(stored) % 8)
        described.append([name, kind, len(plain), len(stored), zlib.crc32(padded)])
        bodies.append(padded)
    text = json.dumps({**header, "sections": described}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((_HEAD.pack(_MAGIC, VERSION, 0, len(text), zlib.crc32(text)), text, *bodies))


def unpack_sections(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what `pack_sections` was given; arrays are views of ``data`` where that can be, and read-only.

    Raises `CorruptError`.
    """
    if len(data) < _HEAD.size:
        raise CorruptError("a segment of an index is too short", bytes=len(data))
    magic, version, reserved, n_header, checksum = _HEAD.unpack_from(data)
    if magic != _MAGIC or reserved:
        raise CorruptError("these bytes are no segment of an index", magic=magic.hex())
    if version != VERSION:
        raise CorruptError("a segment of an index has a version that is not read", version=version)
    text = memoryview(data)[_HEAD.size : _HEAD.size + n_header]
    if len(text) != n_header or n_header % 8 or zlib.crc32(text) != checksum:
        raise CorruptError("the header of a segment of an index is damaged", header_bytes=n_header)
    try:
        header = json.loads(bytes(text))
        described = [(str(n), str(k), int(p), int(s), int(c)) for n, k, p, s, c in header.pop("sections")]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptError("the header of a segment of an index cannot be read", reason=str(error)) from error
    sections, start = {}, _HEAD.size + n_header
    for name, kind, n_plain, n_stored, checksum in described:
        limit = start + n_stored + (-n_stored % 8)
        if not 0 <= n_stored <= n_plain <= SECTION_BYTES_MAX or limit > len(data) or kind not in _KINDS:
            raise CorruptError("a section of an index does not fit its bytes", section=name)
        body = memoryview(data)[start:limit]
        if zlib.crc32(body) != checksum:
            raise CorruptError("a section of an index is damaged", section=name)
        sections[name] = _array(name, kind, body[:n_stored], n_plain)
        start = limit
    if start != len(data):
        raise CorruptError("bytes follow the last section of an index", bytes=len(data) - start)
    return header, sections


def _array(name: str, kind: str, stored: memoryview, n_plain: int) -> np.ndarray:
    plain: bytes | memoryview = stored
    try:
        if len(stored) < n_plain:
            if zstandard.frame_content_size(stored) != n_plain:
                raise ValueError("the frame is of another size")
            plain = zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
        return np.frombuffer(plain, np.dtype(kind))
    except (zstandard.ZstdError, ValueError, MemoryError) as error:
        raise CorruptError("a section of an index cannot be read", section=name, reason=str(error)) from error
