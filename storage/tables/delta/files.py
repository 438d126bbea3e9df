"""The live data files of a table, as columns: batches that are shared between versions.

A batch comes from a checkpoint part or from the commits of one load. A later version drops rows from it (`without`)
or shares it untouched, together with the statistics that were decoded on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.tables.delta.actions import Add, FileKey
from storage.tables.delta.stats import FileStats
from storage.tables.delta.vectors import DeletionVector

__all__ = ["SCHEMA", "VECTOR", "FileBatch", "batch_of_adds", "merge_small"]

VECTOR = pa.struct(
    [
        ("storage", pa.string()),
        ("path", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("cardinality", pa.int64()),
    ]
)
SCHEMA = pa.schema(
    [
        ("location", pa.string()),
        ("size", pa.int64()),
        ("partition_values", pa.map_(pa.string(), pa.string())),
        ("vector", VECTOR),
        ("path", pa.string()),
    ]
)
"""``path`` is null where the log's own path is simply the rest of the location."""
_BATCHES_MAX = 8


class FileBatch:
    """A run of data files: ``columns`` (a record batch of `SCHEMA`) and their statistics. Never changed."""

    __slots__ = ("columns", "stats")

    def __init__(self, columns: pa.RecordBatch, stats: FileStats) -> None:
        self.columns, self.stats = columns, stats

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    def vectors(self) -> dict[int, DeletionVector]:
        """Row → deletion vector, for the rows that have one."""
        column = self.columns.column("vector")
        rows = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        found = column.take(pa.array(rows)).to_pylist()
        return {int(row): DeletionVector(**vector) for row, vector in zip(rows, found, strict=True)}

    def without(self, keys: Collection[FileKey]) -> FileBatch:
        """Return the batch without the files of ``keys``: itself where it has none of them."""
        keep = ~self._among(keys)
        return self if keep.all() else FileBatch(self.columns.filter(pa.array(keep)), self.stats.filter(keep))

    def only(self, keys: Collection[FileKey]) -> FileBatch:
        """Return the batch of those files that are among ``keys``."""
        keep = self._among(keys)
        return FileBatch(self.columns.filter(pa.array(keep)), self.stats.filter(keep))

    def _among(self, keys: Collection[FileKey]) -> np.ndarray:
        found = np.zeros(len(self), dtype=bool)
        if not keys or not len(self):
            return found
        locations = pa.array({key.location for key in keys}, pa.string())
        touched = pc.is_in(self.columns.column("location"), value_set=locations)
        rows = np.flatnonzero(touched.to_numpy(zero_copy_only=False))
        vectors = self.vectors() if len(rows) else {}
        for row in rows.tolist():
            vector = vectors.get(row)
            key = FileKey(self.columns.column("location")[row].as_py(), vector.unique_id if vector else "")
            found[row] = key in keys
        return found


def batch_of_adds(adds: Sequence[Add]) -> FileBatch:
    """Build a batch from add actions."""
    columns = [
        pa.array([add.location for add in adds], pa.string()),
        pa.array([add.size for add in adds], pa.int64()),
        pa.array([list(add.partition_values.items()) for add in adds], SCHEMA.field("partition_values").type),
        pa.array([None if add.vector is None else _vector_row(add.vector) for add in adds], VECTOR),
        pa.array([add.path for add in adds], pa.string()),
    ]
    text = pa.array([add.stats for add in adds], pa.string())
    return FileBatch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA), FileStats(text, None, len(adds)))


def _vector_row(vector: DeletionVector) -> Mapping[str, object]:
    return {
        "storage": vector.storage,
        "path": vector.path,
        "offset": vector.offset,
        "size": vector.size,
        "cardinality": vector.cardinality,
    }


def merge_small(batches: Sequence[FileBatch]) -> tuple[FileBatch, ...]:
    """Drop empty batches, and past a handful join those whose statistics are still text."""
    full = [batch for batch in batches if len(batch)]
    if len(full) <= _BATCHES_MAX:
        return tuple(full)
    small = [(batch, batch.stats.text) for batch in full if batch.stats.text is not None]
    rest = [batch for batch in full if batch.stats.text is None]
    if len(small) < 2:
        return tuple(full)
    columns = pa.concat_batches([batch.columns for batch, _ in small])
    text = pa.concat_arrays([text for _, text in small])
    return (*rest, FileBatch(columns, FileStats(text, None, columns.num_rows)))
