"""The Thrift compact protocol: as much as Parquet footers need. Reading never goes beyond the bytes given.

Source: Apache Thrift, "Thrift compact protocol encoding".
"""

from __future__ import annotations

from collections.abc import Iterator

from storage.errors import CorruptError

__all__ = ["BINARY", "I32", "I64", "LIST", "STRUCT", "ThriftReader", "binary", "field", "integer", "list_of", "varint"]

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
_DEPTH_MAX = 64
_BOUND = 1 << 64


class ThriftReader:
    """Reads from byte ``at`` of ``data``; every method raises `CorruptError` rather than read beyond its end."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def varint(self) -> int:
        """Return an unsigned number of at most 64 bits."""
        data, at = self.data, self.at
        try:
            byte = data[at]
            if byte < 0x80:
                self.at = at + 1
                return byte
            value, shift = byte & 0x7F, 7
            while True:
                at += 1
                byte = data[at]
                value |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
                if shift > 63:
                    raise _damaged("a number has too many bytes", at)
        except IndexError:
            raise _damaged("it ends too early", at) from None
        if value >= _BOUND:
            raise _damaged("a number has too many bits", at)
        self.at = at + 1
        return value

    def signed(self) -> int:
        """Return a zigzag number."""
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def fields(self) -> Iterator[tuple[int, int]]:
        """Yield (number, type) of each field of a struct; the caller reads or skips its value before the next."""
        number, data = 0, self.data
        while True:
            try:
                byte = data[self.at]
            except IndexError:
                raise _damaged("it ends too early", self.at) from None
            self.at += 1
            if byte == 0:
                return
            delta, kind = byte >> 4, byte & 15
            number = number + delta if delta else self.signed()
            yield number, kind

    def integer(self, kind: int) -> int:
        """Return the value of an integer field of type ``kind``."""
        if kind not in (I32, I64, I16):
            raise _damaged("a number is of another type", self.at)
        return self.signed()

    def binary(self, kind: int = BINARY) -> bytes:
        """Return the value of a binary or string field."""
        if kind != BINARY:
            raise _damaged("a string is of another type", self.at)
        length = self.varint()
        start, limit = self.at, self.at + length
        if limit > len(self.data):
            raise _damaged("a string goes beyond its end", start)
        self.at = limit
        return self.data[start:limit]

    def list_of(self, element: int, kind: int = LIST) -> int:
        """Begin a list field whose elements are of type ``element``; return how many follow."""
        if kind != LIST:
            raise _damaged("a list is of another type", self.at)
        n, found = self._list_header()
        if n and found != element:
            raise _damaged("a list holds another type", self.at)
        return n

    def _list_header(self) -> tuple[int, int]:
        if self.at >= len(self.data):
            raise _damaged("it ends too early", self.at)
        byte = self.data[self.at]
        self.at += 1
        n = byte >> 4
        if n == 15:
            n = self.varint()
        # Every element takes a byte at least, so no length makes a loop that the data is too short for.
        if n > len(self.data) - self.at:
            raise _damaged("a list is longer than its data", self.at)
        return n, byte & 15

    def skip(self, kind: int, depth: int = 0) -> None:
        """Pass over a value of type ``kind``."""
        if kind in (I32, I64, I16):
            self.varint()
        elif kind == BINARY:
            length = self.varint()
            self._pass(length)
        elif kind == STRUCT:
            if depth > _DEPTH_MAX:
                raise _damaged("it is nested too deeply", self.at)
            for _number, inner in self.fields():
                self.skip(inner, depth + 1)
        elif kind in (LIST, SET):
            n, inner = self._list_header()
            for _ in range(n):
                self._skip_element(inner, depth + 1)
        elif kind == MAP:
            self._skip_map(depth)
        elif kind in (BYTE, DOUBLE):
            self._pass(1 if kind == BYTE else 8)
        elif kind not in (TRUE, FALSE):
            raise _damaged("a type is unknown", self.at)

    def _skip_element(self, kind: int, depth: int) -> None:
        if depth > _DEPTH_MAX:
            raise _damaged("it is nested too deeply", self.at)
        if kind in (TRUE, FALSE):  # In a list, and only there, a bool is a byte.
            self._pass(1)
        else:
            self.skip(kind, depth)

    def _skip_map(self, depth: int) -> None:
        n = self.varint()
        if n == 0:
            return
        if n > len(self.data) - self.at:
            raise _damaged("a map is longer than its data", self.at)
        kinds = self.data[self.at]
        self.at += 1
        for _ in range(n):
            self._skip_element(kinds >> 4, depth + 1)
            self._skip_element(kinds & 15, depth + 1)

    def _pass(self, length: int) -> None:
        self.at += length
        if self.at > len(self.data):
            raise _damaged("a value goes beyond its end", self.at)


def _damaged(reason: str, at: int) -> CorruptError:
    return CorruptError(f"a Thrift structure is damaged: {reason}", at=at)


def varint(value: int) -> bytes:
    """Encode an unsigned number."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(value: int) -> bytes:
    """Encode a number that may be negative."""
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def binary(value: bytes) -> bytes:
    """Encode a string."""
    return varint(len(value)) + value


def field(delta: int, kind: int) -> bytes:
    """Encode the header of a field whose number is ``delta`` (1 to 15) more than the last one's."""
    return bytes((delta << 4 | kind,))


def list_of(element: int, n: int) -> bytes:
    """Encode the header of a list of ``n`` elements."""
    return bytes((n << 4 | element,)) if n < 15 else bytes((0xF0 | element,)) + varint(n)
