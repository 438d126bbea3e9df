"""How much is waiting: bytes not yet in the object store, and bytes not yet folded. Decides and does no IO."""

from __future__ import annotations

from collections import deque

from storage.errors import OverloadedError
from storage.log.settings import LogSettings

__all__ = ["Backlog"]


class Backlog:
    """Counts bytes as they are queued, stored and folded, and says when it is too much."""

    def __init__(self, settings: LogSettings) -> None:
        self._settings = settings
        self._segments: deque[tuple[int, int]] = deque()
        self.unflushed_bytes = 0
        self.unfolded_bytes = 0

    def check(self, n_bytes: int) -> None:
        """Raise `OverloadedError` with ``retry_after_s`` if ``n_bytes`` more would pass a limit."""
        settings = self._settings
        if self.unflushed_bytes + n_bytes > settings.unflushed_bytes_max:
            raise OverloadedError(
                "too many bytes wait for the object store; retry after a while",
                retry_after_s=max(1.0, 2 * settings.flush_interval_ms / 1000),
                unflushed_bytes=self.unflushed_bytes,
                unflushed_bytes_max=settings.unflushed_bytes_max,
            )
        if self.unfolded_bytes + self.unflushed_bytes + n_bytes > settings.unfolded_bytes_max:
            raise OverloadedError(
                "too many bytes wait for compaction; fold the log or retry after a while",
                retry_after_s=settings.fold_retry_after_s,
                unfolded_bytes=self.unfolded_bytes,
                unfolded_bytes_max=settings.unfolded_bytes_max,
            )

    def queued(self, n_bytes: int) -> None:
        """Bytes were accepted."""
        self.unflushed_bytes += n_bytes

    def dropped(self, n_bytes: int) -> None:
        """Bytes were accepted and then not stored."""
        self.unflushed_bytes -= n_bytes

    def stored(self, limit: int, n_bytes: int) -> None:
        """A segment is in the object store; ``limit`` is the sequence after its last record."""
        self._segments.append((limit, n_bytes))
        self.unfolded_bytes += n_bytes

    def folded(self, before: int) -> None:
        """Every record below the sequence ``before`` is folded into its table."""
        while self._segments and self._segments[0][0] <= before:
            _limit, n_bytes = self._segments.popleft()
            self.unfolded_bytes -= n_bytes
