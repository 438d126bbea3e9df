"""Parquet footers, read in one request each and remembered: files never change under their (location, size).

Source: Apache Parquet format, "File format" (the last eight bytes are the footer's length and the magic ``PAR1``).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import CorruptError, UnsupportedError
from storage.stores import Stores

__all__ = ["Footer", "FooterCache"]

TAIL_BYTES = 64 << 10
"""Most footers fit; a larger one costs a second request."""
CONCURRENT_READS = 32


@dataclass(frozen=True, slots=True)
class Footer:
    """What a data file says of itself. ``fingerprint`` is equal for equal schemas, field ids included."""

    metadata: pq.FileMetaData
    schema: pa.Schema
    fingerprint: bytes


class FooterCache:
    """The most recently used footers of this process, by location, size and etag, up to ``bytes_max`` as stored."""

    def __init__(self, entries_max: int = 100_000, bytes_max: int = 256 << 20) -> None:
        self._entries_max, self._bytes_max, self._bytes = entries_max, bytes_max, 0
        self._footers: OrderedDict[tuple[str, int, str], Footer] = OrderedDict()
        self._keys: dict[str, tuple[str, int, str]] = {}
        self._schemas: dict[bytes, pa.Schema] = {}
        self.n_hits = self.n_misses = 0
        self.told: OrderedDict[tuple[str, int, str], bool] = OrderedDict()

    @property
    def n_bytes(self) -> int:
        """Of the footers that are held, as stored."""
        return self._bytes

    async def read(self, stores: Stores, files: Sequence[tuple[str, int, str]]) -> list[Footer]:
        """Return the footer of each (location, size in bytes, etag or "").

        Raises `CorruptError` naming the file when it is truncated or not Parquet.
        """
        gate = asyncio.Semaphore(CONCURRENT_READS)

        async def one(key: tuple[str, int, str]) -> Footer:
            found = self._footers.get(key)
            if found is None:
                async with gate:
                    found = self._remember(key, await _read(stores, key[0], key[1]))
            else:
                self._footers.move_to_end(key)
            return found

        n_missing = sum(key not in self._footers for key in files)
        self.n_misses += n_missing
        self.n_hits += len(files) - n_missing
        if not n_missing:
            return [self._footers[key] for key in files]
        return list(await asyncio.gather(*map(one, files)))

    def at(self, location: str, size: int) -> pq.FileMetaData | None:
        """Return what the footer of a file says, if it is held and the file has as many bytes; reads nothing."""
        key = self._keys.get(location)
        found = self._footers.get(key) if key is not None and key[1] == size else None
        return None if found is None else found.metadata

    def tell(self, key: tuple[str, int, str], what: bool) -> None:
        """Remember what was found out about a file that its footer does not say."""
        self.told[key] = what
        while len(self.told) > self._entries_max:
            self.told.popitem(last=False)

    def _remember(self, key: tuple[str, int, str], file: pq.ParquetFile) -> Footer:
        schema = _arrow_schema(file, key[0])
        fingerprint = hashlib.sha256(schema.serialize()).digest()
        footer = Footer(file.metadata, self._schemas.setdefault(fingerprint, schema), fingerprint)
        if key not in self._footers:
            self._bytes += footer.metadata.serialized_size
        self._footers[key] = footer
        self._keys[key[0]] = key
        while len(self._footers) > self._entries_max or (self._bytes > self._bytes_max and len(self._footers) > 1):
            oldest, dropped = self._footers.popitem(last=False)
            self._bytes -= dropped.metadata.serialized_size
            if self._keys.get(oldest[0]) == oldest:
                del self._keys[oldest[0]]
        return footer


async def _read(stores: Stores, location: str, size: int) -> pq.ParquetFile:
    if size < 12:
        raise CorruptError("the file is too short to be Parquet", file=location, bytes=size)
    tail = await stores.get_range(location, max(0, size - TAIL_BYTES), size)
    if tail[-4:] == b"PARE":
        raise UnsupportedError("the file is encrypted (Parquet modular encryption)", file=location)
    if tail[-4:] != b"PAR1" or len(tail) < 12:
        raise CorruptError("the file does not end as Parquet does; it is truncated or of another format", file=location)
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > size - 4:
        raise CorruptError("the footer's length is beyond the file", file=location, footer_bytes=length, bytes=size)
    if length > len(tail):
        tail = await stores.get_range(location, size - length, size)
    try:
        return pq.ParquetFile(pa.BufferReader(tail), coerce_int96_timestamp_unit="us")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorruptError("the Parquet footer is damaged", file=location, reason=str(error)) from error


def _arrow_schema(file: pq.ParquetFile, location: str) -> pa.Schema:
    """Return the file's schema; INT96 timestamps are microseconds, as the engine reads them."""
    try:
        return file.schema_arrow.remove_metadata()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UnsupportedError("the file holds a type that Arrow lacks", file=location, reason=str(error)) from error
