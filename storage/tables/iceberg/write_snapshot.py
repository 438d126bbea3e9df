"""The next snapshot of a table: manifests for what is added, removed and merged, their list, and the summary.

Added files get a manifest of their own. A manifest that names removed files is written anew, with those as DELETED and
the rest as EXISTING. When there are more than `MERGE_AT` manifests, the small ones are written anew as few, so that a
thousand small commits do not make a plan of a thousand files.

Source: Iceberg spec, "Manifests", "Snapshots", "Sequence Number Inheritance", "Manifest Entry Status".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from pyiceberg.manifest import DataFile as IcebergDataFile
from pyiceberg.manifest import (
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriter,
    read_manifest_list,
    write_manifest,
    write_manifest_list,
)
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Operation, Snapshot, Summary, UpdateMetrics, update_snapshot_summaries

from storage.stores import join
from storage.tables.iceberg.write_io import MemoryIO

__all__ = ["MERGE_AT", "MERGE_BYTES", "Draft", "live_manifests", "merge_bins", "metrics_of", "next_snapshot"]

MERGE_AT = 100
"""Manifests of data files; one more, and the small ones are merged."""
MERGE_BYTES = 8 << 20
"""Manifests are merged up to this size, as Iceberg's ``commit.manifest.target-size-bytes`` has it."""
_CODEC: Literal["deflate"] = "deflate"


@dataclass
class Draft:
    """What a snapshot is made of.

    name : unique to this try; in the name of each file that it writes
    manifests : of the parent, those with live files
    removed : manifest path → paths of files, as written there, that the snapshot no longer has
    merged : groups of manifest paths; each becomes one manifest
    counted : for the summary, where the manifests are not rewritten; None counts ``added`` and ``removed``
    io : holds the bytes of the manifests in ``removed`` and ``merged``; takes those that are written
    """

    metadata: TableMetadata
    location: str
    name: str
    snapshot_id: int
    timestamp_ms: int
    operation: str
    facts: Mapping[str, str]
    added: Sequence[IcebergDataFile]
    manifests: Sequence[ManifestFile]
    removed: Mapping[str, set[str]]
    merged: Sequence[Sequence[str]]
    io: MemoryIO
    counted: UpdateMetrics | None = None
    written: list[str] = field(default_factory=list)


def live_manifests(io: MemoryIO, manifest_list: str) -> list[ManifestFile]:
    """Return the manifests of a list that name live files."""
    listed = read_manifest_list(io.new_input(manifest_list))
    return [each for each in listed if each.has_added_files() or each.has_existing_files()]


def merge_bins(manifests: Iterable[ManifestFile], spec_id: int) -> list[list[str]]:
    """Return which manifests of data files become one, in groups; none while there are few."""
    data = [m for m in manifests if m.content == ManifestContent.DATA and m.partition_spec_id == spec_id]
    if len(data) <= MERGE_AT:
        return []
    bins: list[list[str]] = []
    filled = MERGE_BYTES
    for manifest in data:
        if manifest.manifest_length >= MERGE_BYTES // 2:
            continue
        if filled + manifest.manifest_length > MERGE_BYTES:
            bins.append([])
            filled = 0
        bins[-1].append(manifest.manifest_path)
        filled += manifest.manifest_length
    return [group for group in bins if len(group) > 1]


def next_snapshot(draft: Draft) -> Snapshot:
    """Write the manifests and their list into ``draft.io`` and return the snapshot; ``draft.written`` names them."""
    metadata = draft.metadata
    numbers = count()
    gone: list[IcebergDataFile] = []
    manifests = [_added(draft, next(numbers))] if draft.added else []
    grouped = {path: index for index, group in enumerate(draft.merged) for path in group}
    groups: dict[int, list[ManifestFile]] = {}
    for manifest in draft.manifests:
        path = manifest.manifest_path
        if path in grouped:
            groups.setdefault(grouped[path], []).append(manifest)
        elif path in draft.removed:
            manifests.append(_rewritten(draft, [manifest], next(numbers), gone))
        else:
            manifests.append(manifest)
    manifests += [_rewritten(draft, group, next(numbers), gone) for group in groups.values()]
    parent = metadata.current_snapshot()
    path = join(draft.location, "metadata", f"snap-{draft.snapshot_id}-1-{draft.name}.avro")
    counted = draft.counted or metrics_of(draft.added, gone)
    with write_manifest_list(
        format_version=2,
        output_file=draft.io.new_output(path),
        snapshot_id=draft.snapshot_id,
        parent_snapshot_id=parent.snapshot_id if parent else None,
        sequence_number=metadata.next_sequence_number(),
        avro_compression=_CODEC,
    ) as writer:
        writer.add_manifests(manifests)
    draft.written.append(path)
    return Snapshot.model_validate(
        {
            "snapshot-id": draft.snapshot_id,
            "parent-snapshot-id": parent.snapshot_id if parent else None,
            "sequence-number": metadata.next_sequence_number(),
            "timestamp-ms": draft.timestamp_ms,
            "manifest-list": path,
            "summary": summary_of(metadata, draft.operation, counted, draft.facts),
            "schema-id": metadata.current_schema_id,
        }
    )


def metrics_of(added: Iterable[IcebergDataFile], removed: Iterable[IcebergDataFile]) -> UpdateMetrics:
    """Return the counts of a summary."""
    metrics = UpdateMetrics()
    for file in added:
        metrics.add_file(file)
    for file in removed:
        metrics.remove_file(file)
    return metrics


def summary_of(metadata: TableMetadata, operation: str, metrics: UpdateMetrics, facts: Mapping[str, str]) -> Summary:
    """Return the summary; totals follow the current snapshot's, and facts never replace a count."""
    parent = metadata.current_snapshot()
    counts = update_snapshot_summaries(
        # pyiceberg adds no totals to a replace; they are computed in the same way.
        Summary(operation=Operation.OVERWRITE, **metrics.to_dict()),
        parent.summary if parent else None,
    )
    return Summary(operation=Operation(operation), **{**facts, **counts.additional_properties})


def _writer(draft: Draft, spec_id: int, number: int) -> ManifestWriter:
    path = join(draft.location, "metadata", f"{draft.name}-m{number}.avro")
    draft.written.append(path)
    metadata = draft.metadata
    return write_manifest(
        format_version=2,
        spec=metadata.specs()[spec_id],
        schema=metadata.schema(),
        output_file=draft.io.new_output(path),
        snapshot_id=draft.snapshot_id,
        avro_compression=_CODEC,
    )


def _added(draft: Draft, number: int) -> ManifestFile:
    with _writer(draft, draft.metadata.default_spec_id, number) as writer:
        for file in draft.added:
            writer.add(
                ManifestEntry.from_args(
                    status=ManifestEntryStatus.ADDED,
                    snapshot_id=draft.snapshot_id,
                    sequence_number=None,
                    file_sequence_number=None,
                    data_file=file,
                )
            )
    return writer.to_manifest_file()


def _rewritten(
    draft: Draft, manifests: Sequence[ManifestFile], number: int, gone: list[IcebergDataFile]
) -> ManifestFile:
    with _writer(draft, manifests[0].partition_spec_id, number) as writer:
        for manifest in manifests:
            doomed = draft.removed.get(manifest.manifest_path, set())
            for entry in manifest.fetch_manifest_entry(draft.io, discard_deleted=True):
                if entry.data_file.file_path in doomed:
                    writer.delete(entry)
                    gone.append(entry.data_file)
                else:
                    writer.existing(entry)
    return writer.to_manifest_file()
