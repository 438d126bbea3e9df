"""Takes a library off the list of those that an ELF file is loaded with, in place: for one that nothing in it calls.

Of ELF's 64-bit little-endian form: x86_64 and arm64. Source: System V ABI, chapter 5, "Dynamic Section".
"""

from __future__ import annotations

import struct
from pathlib import Path

__all__ = ["forget"]

_PROGRAM = struct.Struct("<IIQQQQQQ")
_ENTRY = struct.Struct("<qQ")
_LOAD, _DYNAMIC = 1, 2
_NULL, _NEEDED, _STRINGS = 0, 1, 5


def forget(path: Path, library: str) -> bool:
    """Take ``library`` (as ``libx.so.1``) off the file's DT_NEEDED entries; return whether it was there.

    Raises `ValueError` where the file is none of that form.
    """
    data = bytearray(path.read_bytes())
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"not a 64-bit little-endian ELF file: path={path}")
    (table,) = struct.unpack_from("<Q", data, 32)
    size, n_programs = struct.unpack_from("<HH", data, 54)
    programs = [_PROGRAM.unpack_from(data, table + size * each) for each in range(n_programs)]
    # Each: type, flags, offset in the file, address, physical address, bytes in the file, bytes in memory, alignment.
    start, n_bytes = next((each[2], each[5]) for each in programs if each[0] == _DYNAMIC)
    entries = list(_ENTRY.iter_unpack(data[start : start + n_bytes]))
    address = next(value for tag, value in entries if tag == _STRINGS)
    strings = next(
        address - each[3] + each[2] for each in programs if each[0] == _LOAD and 0 <= address - each[3] < each[5]
    )
    name = library.encode() + b"\0"
    kept = [
        (tag, value)
        for tag, value in entries
        if tag != _NEEDED or data[strings + value : strings + value + len(name)] != name
    ]
    if len(kept) == len(entries):
        return False
    kept += [(_NULL, 0)] * (len(entries) - len(kept))
    data[start : start + n_bytes] = b"".join(_ENTRY.pack(*each) for each in kept)
    path.write_bytes(data)
    return True
