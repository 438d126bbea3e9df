"""Which floating-point columns of a data file are known to hold no NaN.

Parquet's statistics leave NaN out and do not say whether there is any. Our writer does, in the footer's key-value
metadata: which of the file's top-level columns have none, and where the file's rows end. Programs copy such metadata to
files that they derive from ours; there the rows end elsewhere, and nothing is known. Nor is it of any other file.
"""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = ["KEY", "note", "without_nan"]

KEY = "firn.without_nan"
"""Its value is JSON: ``{"columns": [name, …], "end": offset}``."""


def note(rows: pa.Table, end: int) -> dict[str, str]:
    """Return what the footer of a file says, as key-value metadata; nothing where it would say nothing.

    Parameters
    ----------
    end : offset in bytes behind the last column chunk
    """
    floats = [field.name for field in rows.schema if pa.types.is_floating(field.type)]
    columns = [name for name in floats if not pc.any(pc.is_nan(rows.column(name))).as_py()]
    return {KEY: json.dumps({"columns": columns, "end": end})} if columns else {}


def without_nan(metadata: pq.FileMetaData) -> frozenset[str]:
    """Return the columns that the file says hold no NaN."""
    said = (metadata.metadata or {}).get(KEY.encode())
    if said is None:
        return frozenset()
    try:
        found = json.loads(said)
        return frozenset(found["columns"]) if found["end"] == _end(metadata) else frozenset()
    except (ValueError, KeyError, TypeError):
        return frozenset()


def _end(metadata: pq.FileMetaData) -> int:
    """Return the offset behind the last column chunk."""
    ends = [0]
    if metadata.num_row_groups:
        group = metadata.row_group(metadata.num_row_groups - 1)
        chunks = [group.column(number) for number in range(group.num_columns)]
        ends += [
            (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size for chunk in chunks
        ]
    return max(ends)
