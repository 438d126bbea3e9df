"""Some files of a snapshot as a snapshot of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from storage.tables.snapshot import ColumnStats, FileSet, Snapshot

__all__ = ["restricted"]


def restricted(snapshot: Snapshot, rows: Sequence[int], tag: str) -> Snapshot:
    """Return the snapshot with the files at positions ``rows``; ``tag`` tells its etag from the whole one's."""
    files = snapshot.files
    chosen = np.asarray(rows, dtype=np.int64)
    index = pa.array(chosen)
    moved = {old: new for new, old in enumerate(rows)}

    def stats(name: str) -> ColumnStats | None:
        found = files.stats(name)
        if found is None:
            return None
        sure = None if found.without_nan is None else found.without_nan[chosen]
        return ColumnStats(found.minimum.take(index), found.maximum.take(index), found.null_count.take(index), sure)

    subset = FileSet(
        paths=[files.paths[row] for row in rows],
        sizes=files.sizes[chosen],
        n_rows=files.n_rows[chosen],
        partitions={name: values.take(index) for name, values in files.partitions.items()},
        absent={name: (values.take(index), known[chosen]) for name, (values, known) in files.absent.items()},
        stats=stats,
        deletes={moved[row]: found for row, found in files.deletes.items() if row in moved},
        formats={moved[row]: found for row, found in files.formats.items() if row in moved},
    )
    return replace(snapshot, files=subset, etag=f"{snapshot.etag}|{tag}")
