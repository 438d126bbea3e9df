"""Delete files read and decoded: deletion vectors, position deletes and equality deletes.

One `DeleteCache` belongs to a snapshot: a delete file that many data files share is read once while it fits.

Sources: Iceberg spec, "Delete Formats", "Reserved Field IDs"; Puffin spec, "deletion-vector-v1".
"""

from __future__ import annotations

import asyncio
import struct
import threading
import zlib
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import CorruptError, InvalidError, NotFoundError
from storage.stores import Stores, normalize
from storage.tables.iceberg.columns import read_columns
from storage.tables.iceberg.schema import field_id_of
from storage.tables.snapshot import FIELD_ID, EqualityDelete, LoadedDeletes

__all__ = ["DeleteCache", "DeleteVector", "EqualityDeletes", "FileDeletes", "PositionDeletes", "decode_vector"]

CACHE_BYTES_MAX = 256 << 20
_VECTOR_MAGIC = b"\xd1\xd3\x39\x64"
_FILE_PATH = pa.field("file_path", pa.string(), metadata={FIELD_ID: b"2147483546"})
_POS = pa.field("pos", pa.int64(), metadata={FIELD_ID: b"2147483545"})
_NONE = np.zeros(0, np.int64)
T = TypeVar("T")
_Key = tuple[asyncio.AbstractEventLoop, Hashable]


class DeleteCache:
    """What was decoded, by file or set of files, least recently used out first; asked for twice at once, it is read
    once.
    """

    def __init__(self, bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._lock = threading.Lock()
        self._decoded: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._reading: dict[_Key, asyncio.Future[Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return (DeleteCache, (self._bytes_max,))

    async def get(self, name: Hashable, read: Callable[[], Awaitable[tuple[T, int]]]) -> T:
        """Return what is kept under ``name``, or else what ``read`` returns, which comes with its size in bytes."""
        with self._lock:
            if name in self._decoded:
                self._decoded.move_to_end(name)
                return cast(T, self._decoded[name][0])
        key = (asyncio.get_running_loop(), name)
        if key in self._reading:
            try:
                return cast(T, await asyncio.shield(self._reading[key]))
            except asyncio.CancelledError:
                if not self._reading_was_cancelled(key):
                    raise
        return await self._read(key, read)

    def _reading_was_cancelled(self, key: _Key) -> bool:
        """Tell whether it was the other reader that was cancelled, and not the one that waits for it."""
        task = asyncio.current_task()
        return key not in self._reading and (task is None or not task.cancelling())

    async def _read(self, key: _Key, read: Callable[[], Awaitable[tuple[T, int]]]) -> T:
        future: asyncio.Future[Any] = key[0].create_future()
        self._reading[key] = future
        try:
            value, n_bytes = await read()
        except BaseException as error:
            if isinstance(error, Exception):
                future.set_exception(error)
                future.exception()  # mark it as seen, in case nobody waits
            else:
                future.cancel()
            raise
        else:
            future.set_result(value)
            self._keep(key[1], value, n_bytes)
            return value
        finally:
            self._reading.pop(key, None)

    def _keep(self, name: Hashable, value: object, n_bytes: int) -> None:
        with self._lock:
            if n_bytes > self._bytes_max or name in self._decoded:
                return
            self._decoded[name] = (value, n_bytes)
            self._bytes += n_bytes
            while self._bytes > self._bytes_max:
                _name, (_value, freed) = self._decoded.popitem(last=False)
                self._bytes -= freed


@dataclass(frozen=True, slots=True)
class DeleteVector:
    """Bytes [offset, offset + size) of a Puffin file: the deleted positions of one data file."""

    path: str
    offset: int
    size: int

    async def positions(self, stores: Stores) -> np.ndarray:
        """Return int64[k], sorted. Raises `CorruptError` naming the file."""
        blob = await _present(stores.get_range(self.path, self.offset, self.offset + self.size), self.path)
        return await asyncio.to_thread(decode_vector, blob, self.path)


def decode_vector(blob: bytes, source: str) -> np.ndarray:
    """Return the positions of a ``deletion-vector-v1`` blob, int64[k], sorted.

    Layout: 4 bytes length of what follows without the checksum (big endian), the magic number, a 64-bit Roaring
    bitmap in its portable format, CRC-32 of magic and bitmap (big endian). Raises `CorruptError`.
    """
    from pyroaring import BitMap64

    if len(blob) < 12 or blob[4:8] != _VECTOR_MAGIC:
        raise CorruptError("not an iceberg deletion vector", file=source)
    (length,) = struct.unpack(">I", blob[:4])
    body, checksum = blob[4 : 4 + length], blob[4 + length : 8 + length]
    if len(checksum) < 4 or zlib.crc32(body) != struct.unpack(">I", checksum)[0]:
        raise CorruptError("an iceberg deletion vector fails its checksum", file=source)
    try:
        return np.fromiter(BitMap64.deserialize(body[4:]), np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        raise CorruptError("not an iceberg deletion vector", file=source, reason=repr(error)) from error


@dataclass(frozen=True, slots=True)
class PositionDeletes:
    """A file of (data file, position) pairs."""

    path: str
    format: str

    async def load(self, stores: Stores, cache: DeleteCache) -> dict[str, np.ndarray]:
        """Return data file location → int64[k] positions, sorted and unique. Raises `CorruptError`."""

        async def read() -> tuple[dict[str, np.ndarray], int]:
            data = await _present(stores.get(self.path), self.path)
            by_file = await asyncio.to_thread(self._decode, data)
            return by_file, sum(positions.nbytes + 200 for positions in by_file.values())

        return await cache.get(self.path, read)

    def _decode(self, data: bytes) -> dict[str, np.ndarray]:
        table = read_columns(data, self.format, [_FILE_PATH, _POS], self.path)
        table = table.filter(pc.and_(table.column(0).is_valid(), table.column(1).is_valid()))  # a null names no row
        paths = pc.dictionary_encode(table.column(0).combine_chunks())
        paths = paths.combine_chunks() if isinstance(paths, pa.ChunkedArray) else paths
        codes, positions = paths.indices.to_numpy(), table.column(1).to_numpy()
        order = np.lexsort((positions, codes))
        codes, positions = codes[order], positions[order]
        starts = np.searchsorted(codes, np.arange(len(paths.dictionary) + 1))
        by_file: dict[str, list[np.ndarray]] = defaultdict(list)
        for code, written in enumerate(paths.dictionary.to_pylist()):
            try:
                by_file[normalize(written)].append(positions[starts[code] : starts[code + 1]])
            except InvalidError:
                continue  # not a place that can be read, so none of the snapshot's files
        return {path: np.unique(np.concatenate(parts)) for path, parts in by_file.items()}


@dataclass(frozen=True, slots=True)
class EqualityDeletes:
    """A file of values; rows that equal one of its rows in all ``columns`` are deleted."""

    path: str
    format: str
    columns: tuple[pa.Field, ...]

    async def load(self, stores: Stores, cache: DeleteCache) -> pa.Table:
        """Return the values, one column per field, named by field id. Raises `CorruptError`."""

        async def read() -> tuple[pa.Table, int]:
            data = await _present(stores.get(self.path), self.path)
            table = await asyncio.to_thread(read_columns, data, self.format, self.columns, self.path)
            table = table.rename_columns([str(field_id_of(column)) for column in self.columns])
            return table, int(table.nbytes)

        return await cache.get(self.path, read)


async def _present(reading: Awaitable[bytes], path: str) -> bytes:
    try:
        return await reading
    except NotFoundError as error:
        raise CorruptError("an iceberg manifest names a delete file that does not exist", file=path) from error


@dataclass(frozen=True)
class FileDeletes:
    """All delete information of one data file; implements `storage.tables.snapshot.Deletes`."""

    data_file: str
    vector: DeleteVector | None
    positional: tuple[PositionDeletes, ...]
    equality: tuple[EqualityDeletes, ...]
    cache: DeleteCache = field(compare=False, repr=False)

    async def load(self, stores: object) -> LoadedDeletes:
        """Read and decode through a `storage.stores.Stores`. Raises `CorruptError` naming the file."""
        through = cast(Stores, stores)
        return LoadedDeletes(await self._positions(through), await self._equality(through))

    async def _positions(self, stores: Stores) -> np.ndarray:
        if self.vector is not None:
            return await self.vector.positions(stores)
        files = await asyncio.gather(*(file.load(stores, self.cache) for file in self.positional))
        found = [file[self.data_file] for file in files if self.data_file in file]
        if len(found) == 1:
            return found[0]
        return np.unique(np.concatenate(found)) if found else _NONE

    async def _equality(self, stores: Stores) -> tuple[EqualityDelete, ...]:
        if not self.equality:
            return ()
        return await self.cache.get(self.equality, lambda: self._grouped(stores))

    async def _grouped(self, stores: Stores) -> tuple[tuple[EqualityDelete, ...], int]:
        """Return one delete per set of columns, and nearly no bytes: the values are those of the cached files."""
        tables = await asyncio.gather(*(file.load(stores, self.cache) for file in self.equality))
        grouped: dict[tuple[pa.Field, ...], list[pa.Table]] = defaultdict(list)
        for file, table in zip(self.equality, tables, strict=True):
            # A column that was given a wider type has deletes of both types.
            types = zip(table.column_names, file.columns, strict=True)
            grouped[file.columns].append(table.cast(pa.schema([(name, column.type) for name, column in types])))
        deletes = tuple(
            EqualityDelete(tuple(map(field_id_of, columns)), pa.concat_tables(parts), pa.schema(columns))
            for columns, parts in grouped.items()
        )
        return deletes, 1000 * len(tables)
