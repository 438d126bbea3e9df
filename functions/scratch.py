"""Folders for files that a process needs for a while: gone when they are closed, and after a killed process with the
next one that makes any. The folder's lock says whether its process lives."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Final

__all__ = ["Scratch"]

_PREFIX: Final = "firn-scratch-"
_YOUNG_S: Final = 60
"""A folder so much younger than the newest may not be locked yet."""


class Scratch:
    """A folder of its own below ``parent`` (None: the system's temporary one), removed when it is closed or dropped."""

    def __init__(self, parent: str | None = None) -> None:
        if parent:
            Path(parent).mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = os.open(self.folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        self._close = weakref.finalize(self, _remove, self.folder, lock)
        _sweep(self.folder)

    def close(self) -> None:
        """Remove it with all that it holds."""
        self._close()


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def _sweep(newest: Path) -> None:
    """Remove the folders of processes that are no more."""
    made_s = newest.stat().st_mtime
    for folder in newest.parent.glob(f"{_PREFIX}*"):
        if folder == newest:
            continue
        try:
            if made_s - folder.stat().st_mtime < _YOUNG_S:
                continue
            lock = os.open(folder, os.O_RDONLY)
        except OSError:  # another process has removed it, or it is another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(lock)
