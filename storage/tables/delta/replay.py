"""Replay: a state of the table, and what later actions make of it.

The newest action about a file key wins; keys are (location, deletion vector). A state is immutable and shares its
batches with the states before and after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from storage.errors import CorruptError
from storage.tables.delta.actions import Actions, Metadata, Protocol
from storage.tables.delta.files import FileBatch, batch_of_adds, merge_small

__all__ = ["TableState", "replay"]


@dataclass(frozen=True)
class TableState:
    """A version of a table as the log tells it.

    transactions : application id → the last version that it committed (``txn``)
    domains : domain → configuration (``domainMetadata``)
    time_is_exact : whether ``timestamp_ms`` is final; else commits that were not listed may move it up
    head_etag : etag of the log file that made this version
    """

    version: int
    timestamp_ms: int
    protocol: Protocol
    metadata: Metadata
    batches: tuple[FileBatch, ...]
    transactions: Mapping[str, int] = field(default_factory=dict)
    domains: Mapping[str, str] = field(default_factory=dict)
    time_is_exact: bool = False
    head_etag: str = ""

    def base(self) -> Actions:
        """Everything but the files, as the actions that would bring it about."""
        return Actions(
            protocol=self.protocol,
            metadata=self.metadata,
            transactions=dict(self.transactions),
            domains=dict(self.domains),
        )


def replay(table: str, base: Actions, batches: Sequence[FileBatch], later: Actions, head: Head) -> TableState:
    """Put the actions of ``later`` on top of a base, and return the state at ``head``.

    Raises `CorruptError` when protocol or metadata are missing.
    """
    total = Actions()
    total.apply(base)
    total.apply(later)
    if total.protocol is None or total.metadata is None:
        raise CorruptError(
            "the delta log lacks an action that every table has",
            table=table,
            missing="protocol" if total.protocol is None else "metaData",
            version=head.version,
        )
    live = [add for add in total.files.values() if add is not None]
    kept = [batch.without(total.files.keys()) for batch in batches]
    return TableState(
        version=head.version,
        timestamp_ms=head.timestamp_ms,
        protocol=total.protocol,
        metadata=total.metadata,
        batches=merge_small([*kept, batch_of_adds(live)] if live else kept),
        transactions=total.transactions,
        domains={name: text for name, text in total.domains.items() if text is not None},
        time_is_exact=head.time_is_exact,
        head_etag=head.etag,
    )


@dataclass(frozen=True, slots=True)
class Head:
    """The log entry that makes a version: when it was committed, and its etag."""

    version: int
    timestamp_ms: int
    time_is_exact: bool
    etag: str
