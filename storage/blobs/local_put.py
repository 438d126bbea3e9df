"""The durable write of one local file; `storage.blobs.local` numbers what it guarantees. Everything here blocks."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage.blobs import BlobMeta
from storage.blobs.local_files import etag_of, folder_lock, meta_of, sync_folder, temporary_name
from storage.clock import Clock
from storage.errors import ConflictError, FirnlineError, IndeterminateError, UnavailableError

__all__ = ["Condition", "put_file"]

_DISK_FAILURES = {errno.EIO, errno.EFBIG, errno.ESTALE, errno.ETIMEDOUT, None}
_MAYBE = "the file may have its name, and may not be durable; read it back"


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold of the target for the put to happen."""

    if_absent: bool
    if_match: str | None


def put_file(key: str, path: Path, data: bytes, condition: Condition, clock: Clock) -> BlobMeta:
    """Write the whole file durably. Raises `ConflictError`, `IndeterminateError`, `OSError` if nothing happened."""
    _check(key, path, condition)  # Early as well, so that a lost race costs no write.
    _make_folders(path.parent)
    temporary = path.parent / temporary_name(clock.new_id())
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with _disk_failures(UnavailableError, "the disk did not take the bytes", key):
            _write(descriptor, data, _fresh_mtime_ns(clock))
        _name(key, temporary, path, descriptor, condition)
        with _all_failures(IndeterminateError, _MAYBE, key):
            # The status is our own file's, even if another put has replaced it by now.
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            sync_folder(path.parent)
            return meta_of(key, os.fstat(descriptor))
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _make_folders(folder: Path) -> None:
    """Create ``folder`` and its parents, each durably named in its own parent."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        try:
            path.mkdir()
        except FileExistsError:
            if not path.is_dir():
                raise
        # Also when another put made it just now: it may not have fsynced it yet.
        sync_folder(path.parent)


def _fresh_mtime_ns(clock: Clock) -> int:
    """Now, with random digits below the millisecond, so that a file put again after a delete gets another etag."""
    return clock.now_ms() * 1_000_000 + int(clock.uniform(0, 1_000_000))


def _write(descriptor: int, data: bytes, mtime_ns: int) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.utime(descriptor, ns=(mtime_ns, mtime_ns))
    os.fsync(descriptor)


def _name(key: str, temporary: Path, path: Path, descriptor: int, condition: Condition) -> None:
    """Give the temporary file its name, if the condition holds."""
    if condition.if_absent:
        try:
            with _disk_failures(IndeterminateError, _MAYBE, key):
                os.link(temporary, path)
        except FileExistsError:
            _check(key, path, condition)
            raise ConflictError("the blob exists already", key=key) from None
        return
    with folder_lock(path.parent):
        old = _check(key, path, condition)
        if old is not None and os.fstat(descriptor).st_mtime_ns <= old.st_mtime_ns:
            os.utime(descriptor, ns=(old.st_mtime_ns + 1, old.st_mtime_ns + 1))
        with _disk_failures(IndeterminateError, _MAYBE, key):
            temporary.replace(path)


def _check(key: str, path: Path, condition: Condition) -> os.stat_result | None:
    """Return the target's status, None if absent. Raises `ConflictError` if the condition does not hold."""
    try:
        old = path.stat()
    except FileNotFoundError:
        old = None
    if old is not None and stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a folder")
    if condition.if_absent and old is not None:
        raise ConflictError("the blob exists already", key=key)
    if condition.if_match is not None and (old is None or etag_of(old) != condition.if_match):
        raise ConflictError("the blob has changed", key=key, if_match=condition.if_match)
    return old


@contextmanager
def _all_failures(meaning: type[FirnlineError], message: str, key: str) -> Iterator[None]:
    """Turn every `OSError` into ``meaning``."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise meaning(message, key=key, reason=reason) from error


@contextmanager
def _disk_failures(meaning: type[FirnlineError], message: str, key: str) -> Iterator[None]:
    """Turn a failure of the disk into ``meaning``; any other `OSError` is a refusal, so nothing happened."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FAILURES:
            raise
        with _all_failures(meaning, message, key):
            raise
