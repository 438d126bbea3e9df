"""Reading, listing, locking and removing local files, and what each `OSError` means. Everything here blocks."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from storage.blobs import BlobMeta
from storage.blobs.keys import key_fault
from storage.errors import (
    FirnlineError,
    ForbiddenError,
    IndeterminateError,
    InvalidError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)

__all__ = [
    "etag_of",
    "folder_lock",
    "list_files",
    "meta_of",
    "open_file",
    "read_range",
    "remove_file",
    "remove_folder",
    "sync_folder",
    "temporary_name",
    "translated",
]

_TEMPORARY = re.compile(r"\.firn-[0-9a-f]{32}\.tmp")
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_TRY_LATER = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOLCK}
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV}


def temporary_name(unique: str) -> str:
    """The reserved file name for ``unique``, 32 hexadecimal digits."""
    return f".firn-{unique}.tmp"


def etag_of(status: os.stat_result) -> str:
    """Differs whenever the file's content does; see `storage.blobs.local` for why."""
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_ctime_ns:x}-{status.st_size:x}"


def meta_of(key: str, status: os.stat_result) -> BlobMeta:
    """Describe a regular file. Raises what `open_file` raises for anything else."""
    _check_regular(status)
    return BlobMeta(key, status.st_size, etag_of(status), status.st_mtime_ns // 1_000_000)


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading; pipes, sockets and devices are refused and never waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check_regular(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a folder")
    if not stat.S_ISREG(status.st_mode):
        raise InvalidError("not a regular file; pipes, sockets and devices cannot be read")


def read_range(descriptor: int, start: int, limit: int) -> bytes:
    """Return bytes [start, limit), cut at the file's end."""
    parts = []
    while start < limit and (part := os.pread(descriptor, limit - start, start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock against every other process and thread that changes names in it through this module."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_file(path: Path) -> None:
    """Remove a file; one that is absent, or a folder, is no blob and no error."""
    try:
        with folder_lock(path.parent):
            path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (IsADirectoryError, PermissionError):
        # macOS answers EPERM for a folder.
        if not path.is_dir():
            raise


def remove_folder(folder: Path) -> None:
    """Remove a folder into which nobody writes any more, with what killed writers left of files; if it holds anything
    else, or is none, it stays as it is."""
    try:
        names = [entry.name for entry in os.scandir(folder)]
        if all(map(_TEMPORARY.fullmatch, names)):
            for name in names:
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()
    except OSError:  # it is gone, or a late writer has just put something there
        return


def list_files(root: Path, prefix: str, start_after: str | None) -> Iterator[BlobMeta]:
    """Yield the files below ``root`` whose key starts with ``prefix``, in UTF-8 order, after ``start_after``."""
    folder, slash, rest = prefix.rpartition("/")
    after = None if start_after is None else start_after.encode(errors="surrogatepass")
    yield from _walk(root / folder, folder + slash, rest, after, ())


def _walk(
    folder: Path, base: str, rest: str, after: bytes | None, above: tuple[tuple[int, int], ...]
) -> Iterator[BlobMeta]:
    """Yield what ``folder`` holds; ``above`` identifies the folders that led here, so that a link cycle ends."""
    try:
        status = folder.stat()
        with os.scandir(folder) as entries:
            found = [(_order(entry), entry) for entry in entries if entry.name.startswith(rest)]
    except (FileNotFoundError, NotADirectoryError):
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for order, entry in sorted(found, key=lambda pair: pair[0]):
        key = os.fsencode(base) + order
        if order.endswith(b"/"):
            if after is None or after < key or after.startswith(key):
                yield from _walk(folder / entry.name, base + entry.name + "/", "", after, (*above, here))
        elif (after is None or key > after) and not _TEMPORARY.fullmatch(entry.name):
            yield from _meta_if_file(base + entry.name, entry)


def _order(entry: os.DirEntry[str]) -> bytes:
    """What sorts an entry where its blobs stand in key order: a folder stands where its slash does."""
    return os.fsencode(entry.name) + (b"/" if entry.is_dir() else b"")


def _meta_if_file(key: str, entry: os.DirEntry[str]) -> Iterator[BlobMeta]:
    try:
        status = entry.stat()
    except FileNotFoundError:
        # Removed since the folder was read, or a link to nothing.
        return
    if stat.S_ISREG(status.st_mode):
        fault = key_fault(key)
        if fault is not None:
            raise InvalidError(f"a file's name {fault}; rename or move it", path=repr(key))
        yield meta_of(key, status)


@contextmanager
def translated(path: str, *, writing: bool) -> Iterator[None]:
    """Turn an `OSError` about ``path`` into our error tree."""
    try:
        yield
    except FirnlineError as error:
        error.facts.setdefault("path", path)
        raise
    except OSError as error:
        raise _translate(error, path, writing) from error


def _translate(error: OSError, path: str, writing: bool) -> FirnlineError:
    reason = os.strerror(error.errno).lower() if error.errno else "i/o error"
    if error.errno in _FORBIDDEN:
        return ForbiddenError(f"{reason}: let the process's user have this path", path=path)
    if error.errno in _TRY_LATER:
        return UnavailableError(f"{reason}: free some and try again", path=path)
    if error.errno in _UNSUPPORTED:
        return UnsupportedError(f"{reason}: the file system lacks link or flock; use another one or s3", path=path)
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return InvalidError(f"{reason}: not a path that this file system can hold", path=path)
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError | FileExistsError):
        if writing and isinstance(error, FileNotFoundError):
            return UnavailableError("the folder was removed meanwhile; try again", path=path)
        if writing:
            return InvalidError("a file and a folder cannot have one name; choose another key", path=path)
        return NotFoundError("no such file" if not isinstance(error, IsADirectoryError) else "a folder", path=path)
    return IndeterminateError(f"{reason}: the disk or file system failed", path=path)
