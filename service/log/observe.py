"""What an owner tells those who count: `service.log.metrics` does, where Prometheus is installed."""

from __future__ import annotations

from typing import Protocol

__all__ = ["LogObserver", "Unobserved"]


class LogObserver(Protocol):
    """Is told of every append and every group commit; returns at once."""

    def appended(self, shard: int, outcome: str, seconds: float) -> None:
        """An append was answered: "acknowledged", or the name of its error's class."""
        ...

    def committed(self, shard: int, n_appends: int, n_records: int, n_bytes: int) -> None:
        """Appends go to the disk or the object store together."""
        ...


class Unobserved:
    """Counts nothing."""

    def appended(self, shard: int, outcome: str, seconds: float) -> None:
        """See `LogObserver`."""

    def committed(self, shard: int, n_appends: int, n_records: int, n_bytes: int) -> None:
        """See `LogObserver`."""
