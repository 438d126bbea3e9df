"""The journal: a local file that makes an append durable before its segment is in the object store. Everything blocks.

1. `Journal.append` returns once the entry is fsynced. An entry that was cut off by a crash was never acknowledged,
   and is dropped when the file is read; an entry that is damaged otherwise raises `CorruptError`.
2. The file is replaced whole, by rename: a reader finds the old one or the new one. So entries move to another epoch
   at one instant, and are never in two.
3. One process at a time holds it (``flock`` of the file beside it).
4. After a failed fsync nothing is known of the file: the journal takes no more, and must be opened anew.

An entry is *cut off* if the file ends before it does, or if a page of it is still all zeros, as a file system leaves
a page whose data did not reach the disk. The layout is in ``storage/log/README.md``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from storage.errors import (
    ConflictError,
    CorruptError,
    FirnlineError,
    IndeterminateError,
    UnavailableError,
    UnsupportedError,
)
from storage.log import Position
from storage.log.records import checksum_of, split_records
from storage.log.tail import Entry

__all__ = ["Journal", "JournalContents", "lock_journal", "read_journal"]

VERSION = 1
_MAGIC = b"FIRNJNL\n"
_HEADER = struct.Struct("<8sHHIQI")
_ENTRY_MAGIC = 0x454E5246
_ENTRY = struct.Struct("<IIQQII")
_TRAILER = struct.Struct("<II")
_TRAILER_MAGIC = 0x444E5246
_PAGE = 4096


@dataclass(frozen=True, slots=True)
class JournalContents:
    """What a journal holds: the epoch that wrote it, and its entries in order."""

    epoch: int
    entries: list[Entry]


@contextlib.contextmanager
def _disk(path: Path, meaning: type[FirnlineError], message: str) -> Iterator[None]:
    """Turn every `OSError` into ``meaning``."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise meaning(message, path=str(path), reason=reason) from error


def lock_journal(path: Path) -> int:
    """Hold the journal; returns the descriptor whose closing lets it go. Raises `ConflictError` if another does."""
    with _disk(path, UnavailableError, "the journal's folder cannot be written"):
        _make_folder(path.parent)
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConflictError("another process holds the journal; stop it first", path=str(path)) from None
    return descriptor


def read_journal(path: Path, log: str) -> JournalContents | None:
    """Return what was acknowledged, or None if there is no journal.

    Raises `CorruptError` naming the entry, also when the journal is another log's.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnavailableError("the journal cannot be read", path=str(path), reason=str(error)) from error
    epoch = _read_header(data, path, log)
    entries: list[Entry] = []
    start = _HEADER.size
    while start < len(data):
        found = _read_entry(data, start, path, epoch)
        if found is None:
            break
        entry, start = found
        if entries and entry.first.sequence != entries[-1].limit:
            raise CorruptError("the journal has a gap", journal=str(path), sequence=entry.first.sequence)
        entries.append(entry)
    return JournalContents(epoch, entries)


def _read_header(data: bytes, path: Path, log: str) -> int:
    if len(data) < _HEADER.size or data[:8] != _MAGIC:
        raise CorruptError("the file is not a journal, or its header is damaged", journal=str(path))
    _magic, version, _reserved, log_checksum, epoch, checksum = _HEADER.unpack_from(data)
    if zlib.crc32(data[: _HEADER.size - 4]) != checksum:
        raise CorruptError("the journal's header is damaged", journal=str(path))
    if version != VERSION:
        raise UnsupportedError("the journal has a format that this version does not know", journal=str(path))
    if log_checksum != zlib.crc32(log.encode()):
        raise CorruptError("the journal belongs to another log", journal=str(path), log=log)
    return int(epoch)


def _read_entry(data: bytes, start: int, path: Path, epoch: int) -> tuple[Entry, int] | None:
    """Return the entry at ``start`` and where the next begins, or None if it was cut off."""
    where = f"{path}@{start}"
    if len(data) - start < _ENTRY.size:
        return None
    magic, n, first, n_bytes, checksum, header_checksum = _ENTRY.unpack_from(data, start)
    if magic != _ENTRY_MAGIC or zlib.crc32(data[start : start + _ENTRY.size - 4]) != header_checksum:
        if _has_zero_page(data, start, start + _ENTRY.size):
            return None
        raise CorruptError("an entry's header is damaged", journal=where)
    payload = start + _ENTRY.size
    limit = payload + n_bytes + _TRAILER.size
    if limit > len(data):
        return None
    try:
        records = split_records(data[payload : payload + n_bytes], n, first, where)
        if checksum_of(records) != checksum:
            raise CorruptError("an entry's records are not those it was written with", journal=where)
        if _TRAILER.unpack_from(data, limit - _TRAILER.size) != (_TRAILER_MAGIC, header_checksum):
            raise CorruptError("an entry's end is damaged", journal=where)
    except CorruptError:
        if limit == len(data) and _has_zero_page(data, start, limit):
            return None
        raise
    return Entry(Position(epoch, first), records), limit


def _has_zero_page(data: bytes, start: int, limit: int) -> bool:
    """Whether any page of the file, as far as it lies in [start, limit), is all zeros."""
    while start < limit:
        end = min((start // _PAGE + 1) * _PAGE, limit)
        if not data[start:end].strip(b"\0"):
            return True
        start = end
    return False


def _encode_entry(entry: Entry) -> bytes:
    payload = b"".join(entry.records)
    header = _ENTRY.pack(
        _ENTRY_MAGIC, len(entry.records), entry.first.sequence, len(payload), checksum_of(entry.records), 0
    )[:-4]
    checksum = zlib.crc32(header)
    return b"".join((header, struct.pack("<I", checksum), payload, _TRAILER.pack(_TRAILER_MAGIC, checksum)))


class Journal:
    """The open journal of one epoch. Its calls block, and are made one at a time."""

    def __init__(self, path: Path, log: str, epoch: int) -> None:
        self._path = path
        self._log = log
        self._epoch = epoch
        self._descriptor = -1
        self._broken = False
        self.n_bytes = 0

    def replace(self, entries: list[Entry]) -> None:
        """Begin the file anew with these entries, durably. Raises `UnavailableError`: the old file is still there.

        Raises `IndeterminateError` if it is unknown which of the two the disk holds.
        """
        header = _HEADER.pack(_MAGIC, VERSION, 0, zlib.crc32(self._log.encode()), self._epoch, 0)[:-4]
        parts = [header, struct.pack("<I", zlib.crc32(header)), *map(_encode_entry, entries)]
        fresh = self._path.with_name(self._path.name + ".tmp")
        with _disk(self._path, UnavailableError, "the journal cannot be written"):
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                n_bytes = sum(_write(descriptor, part) for part in parts)
                os.fsync(descriptor)
            except BaseException:
                os.close(descriptor)
                with contextlib.suppress(OSError):
                    fresh.unlink()
                raise
        try:
            with _disk(self._path, IndeterminateError, "it is unknown whether the journal was replaced"):
                fresh.replace(self._path)
                _sync_folder(self._path.parent)
        except BaseException:
            self._broken = True
            os.close(descriptor)
            raise
        self.close()
        self._descriptor, self.n_bytes = descriptor, n_bytes

    def append(self, entry: Entry) -> None:
        """Return once the entry is on the disk.

        Raises `UnavailableError`: nothing was written (a full disk), the journal goes on.
        Raises `IndeterminateError`: it may be there; the journal is not to be used any more.
        """
        if self._broken:
            raise IndeterminateError("the journal failed before; open the log anew", path=str(self._path))
        data = _encode_entry(entry)
        try:
            with _disk(self._path, UnavailableError, "the journal's disk did not take the bytes; make room"):
                _write(self._descriptor, data)
        except UnavailableError:
            self._cut_back()
            raise
        try:
            with _disk(self._path, IndeterminateError, "it is unknown whether the entry is on the disk"):
                _sync(self._descriptor)
        except IndeterminateError:
            self._broken = True
            raise
        self.n_bytes += len(data)

    def _cut_back(self) -> None:
        try:
            with _disk(self._path, IndeterminateError, "a half-written entry cannot be removed from the journal"):
                os.ftruncate(self._descriptor, self.n_bytes)
        except IndeterminateError:
            self._broken = True
            raise

    def close(self) -> None:
        """Close the file; what is in it stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _write(descriptor: int, data: bytes) -> int:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    return len(data)


def _sync(descriptor: int) -> None:
    """Data and size; macOS has no fdatasync."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def _make_folder(folder: Path) -> None:
    """Create it and its parents, each durably named in its own parent."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
