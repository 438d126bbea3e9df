"""Where a path of the log points: URIs relative to the table, as locations.

A path in the log is a URI reference (RFC 2396), percent-encoded once; what it decodes to may itself hold ``%``.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import CorruptError, InvalidError, UnsupportedError
from storage.stores import join, normalize

__all__ = ["file_location", "file_locations"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:/")
_NOT_PLAIN = r"%|:/|(^|/)\.{0,2}(/|$)"
"""Encoded, absolute, or with empty or dot segments: everything that simple concatenation gets wrong."""


def file_location(table: str, path: str) -> str:
    """Return the location that ``path`` of the log of ``table`` names.

    A URL of a scheme that Firnline does not read is returned decoded but otherwise as it is, so that a file can
    still be removed by it. Raises `UnsupportedError` for an absolute path without a scheme: which store it lies in
    depended on its writer's configuration, which the log does not hold.
    """
    decoded = _decode(path)
    if _SCHEME.match(path):
        try:
            return normalize(decoded)
        except InvalidError:
            return decoded
    if path.startswith("/"):
        raise UnsupportedError(
            "the delta log names a file by an absolute path without a scheme; write it relative or as a URL",
            table=table,
            path=path,
        )
    return join(table, decoded)


def file_locations(table: str, paths: pa.Array) -> pa.Array:
    """Do `file_location` for a string array, fast where paths are plain."""
    special = pc.match_substring_regex(paths, _NOT_PLAIN)
    plain = pc.binary_join_element_wise(pa.scalar(table.rstrip("/")), paths, "/")
    if not pc.any(special).as_py():
        return plain
    decoded = [file_location(table, path) for path in paths.filter(special).to_pylist()]
    return pc.replace_with_mask(plain, special, pa.array(decoded, pa.string()))


def _decode(path: str) -> str:
    if "%" not in path:
        return path
    try:
        return unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise CorruptError("a path of the delta log does not decode as UTF-8", path=path) from None
