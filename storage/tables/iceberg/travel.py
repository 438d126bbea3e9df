"""Which snapshot and schema a statement asks for.

Latest and branches are read with the table's current schema; a snapshot id, a time or a tag with the schema that the
snapshot was written with, as Spark and the Java library do.
"""

from __future__ import annotations

from dataclasses import dataclass

from storage.errors import CorruptError, NotFoundError
from storage.tables.iceberg.metadata import SnapshotEntry, TableMetadata
from storage.tables.snapshot import At

__all__ = ["Chosen", "choose"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A snapshot (None: the table has none yet) and the schema to read it with."""

    entry: SnapshotEntry | None
    schema_id: int

    @property
    def snapshot_id(self) -> int:
        """The snapshot's id, 0 when there is none."""
        return self.entry.snapshot_id if self.entry else 0


def choose(metadata: TableMetadata, at: At) -> Chosen:
    """Return the snapshot that ``at`` names.

    Raises
    ------
    NotFoundError
        no such snapshot id, no snapshot at that time, or no such branch or tag
    CorruptError
        the metadata names a snapshot that it does not hold
    """
    if at.version is not None:
        if at.version not in metadata.snapshots:
            raise NotFoundError(
                "the iceberg table has no such snapshot id; it may have expired",
                version=at.version,
                current=metadata.current_snapshot_id,
            )
        return _as_written(metadata, at.version)
    if at.timestamp_ms is not None:
        return _as_written(metadata, _at_time(metadata, at.timestamp_ms))
    if at.ref is not None:
        return _at_ref(metadata, at.ref)
    if metadata.current_snapshot_id is None:
        return Chosen(None, metadata.current_schema_id)
    return Chosen(_entry(metadata, metadata.current_snapshot_id), metadata.current_schema_id)


def _at_ref(metadata: TableMetadata, name: str) -> Chosen:
    if name not in metadata.refs:
        if name == "main":
            return Chosen(None, metadata.current_schema_id)
        raise NotFoundError(
            "the iceberg table has no such branch or tag", ref=name, refs=",".join(sorted(metadata.refs)) or "none"
        )
    ref = metadata.refs[name]
    if ref.is_branch:
        return Chosen(_entry(metadata, ref.snapshot_id), metadata.current_schema_id)
    return _as_written(metadata, ref.snapshot_id)


def _as_written(metadata: TableMetadata, snapshot_id: int) -> Chosen:
    entry = _entry(metadata, snapshot_id)
    return Chosen(entry, metadata.current_schema_id if entry.schema_id is None else entry.schema_id)


def _entry(metadata: TableMetadata, snapshot_id: int) -> SnapshotEntry:
    entry = metadata.snapshots.get(snapshot_id)
    if entry is None:
        raise CorruptError(
            "iceberg metadata names a snapshot that it does not hold", snapshot_id=snapshot_id, file=metadata.source
        )
    return entry


def _at_time(metadata: TableMetadata, timestamp_ms: int) -> int:
    log = metadata.log or _ancestry(metadata)
    reached = [snapshot_id for since, snapshot_id in log if since <= timestamp_ms]
    if not reached:
        raise NotFoundError(
            "the iceberg table had no snapshot at that time, or it has expired",
            timestamp_ms=timestamp_ms,
            first_ms=log[0][0] if log else None,
        )
    if reached[-1] not in metadata.snapshots:
        raise NotFoundError("the snapshot of that time has expired", timestamp_ms=timestamp_ms, version=reached[-1])
    return reached[-1]


def _ancestry(metadata: TableMetadata) -> tuple[tuple[int, int], ...]:
    """Return what the snapshot log would hold if the table had always moved forward along its current history."""
    log: list[tuple[int, int]] = []
    current = metadata.current_snapshot_id
    while current is not None and current in metadata.snapshots and len(log) <= len(metadata.snapshots):
        entry = metadata.snapshots[current]
        log.append((entry.timestamp_ms, current))
        current = entry.parent_id
    return tuple(reversed(log))
