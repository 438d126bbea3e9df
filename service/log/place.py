"""Where the logs of a lake lie: their blobs, and their journals on this machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from catalog.logs import ShardState
from storage.blobs import Blobs
from storage.errors import InvalidError

__all__ = ["LOG_FOLDER", "LogPlace"]

LOG_FOLDER = "_firnline/log"
_JOURNAL = "journal"


@dataclass(frozen=True)
class LogPlace:
    """The logs of one lake, as this process may reach them.

    Attributes
    ----------
    blobs, prefix : where the logs lie
    lake_folder : of a local lake; a journal that the settings do not place elsewhere lies in it
    journals : folder of the journals that this process writes; None: the lake's folder, or no journals
    """

    blobs: Blobs
    prefix: str
    lake_folder: Path | None
    journals: Path | None

    @property
    def journaled(self) -> bool:
        """Whether a log that this process owns has a journal."""
        return self.journals is not None or self.lake_folder is not None

    def log(self, shard: int) -> str:
        """The prefix of a log's keys."""
        return f"{self.prefix}/{shard}"

    def own_journal(self, shard: int) -> tuple[Path | None, str | None]:
        """The journal that this process writes, and how the catalog names it: empty for the lake's own place."""
        if self.journals is not None:
            path = self.journals / f"log-{shard}.{_JOURNAL}"
            return path, str(path)
        return (self._in_lake(shard), "") if self.lake_folder is not None else (None, None)

    def check_journals(self, shards: Iterable[int]) -> None:
        """Make the folders of the journals that this process writes, and see that files can be made in them.

        Raises `InvalidError` that names what cannot be written: what an append by fsync stands on.
        """
        for path in filter(None, (self.own_journal(shard)[0] for shard in shards)):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=path.parent):
                    pass
            except OSError as error:
                raise _unusable("folder", path.parent, error.strerror or str(error)) from None
            if path.exists() and not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
                raise _unusable("journal", path, "not readable and writable")

    def journal_of(self, shard: int, state: ShardState, host: str) -> Path | None:
        """The journal of the last epoch, if it can be on this machine."""
        if state.journal is None:
            return None
        if not state.journal:
            return self._in_lake(shard) if self.lake_folder is not None else None
        return Path(state.journal) if state.journal_host == host else None

    def _in_lake(self, shard: int) -> Path:
        assert self.lake_folder is not None
        return self.lake_folder / LOG_FOLDER / str(shard) / _JOURNAL


def _unusable(what: str, path: Path, reason: str) -> InvalidError:
    return InvalidError(
        "the log cannot keep its journal on this machine's disk; make the place writable for this user, or name "
        "another by --data-dir or FIRN_LOG_JOURNAL",
        **{what: str(path)}, reason=reason,
    )  # fmt: skip
