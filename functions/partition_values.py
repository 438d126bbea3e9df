"""Values that a table's partitioning cannot hold, refused before they are acknowledged.

Delta writes the values of partition columns as text in its log and has no empty string there: it would come back as
null, or, in a column that is NOT NULL, could never be folded.
"""

from __future__ import annotations

import pyarrow as pa

from catalog.tables import TableEntry
from functions.by_identity import by_identity
from storage.tables.delta.write_values import check_partition_rows
from storage.tables.snapshot import FIELD_ID
from storage.tables.write import TableSpec

__all__ = ["check_partition_values"]


def check_partition_values(entry: TableEntry, rows: pa.Table) -> None:
    """Raise `InvalidError` naming row (from 0) and column of a value that the table's format would change.

    ``rows`` have the table's columns.
    """
    if entry.managed is None or entry.format != "delta":
        return
    names = _text_partitions(entry.managed.spec)
    if names:
        check_partition_rows(rows, names)


@by_identity
def _text_partitions(spec: TableSpec) -> tuple[str, ...]:
    ids = {str(part.column_id).encode() for part in spec.partition_by if part.transform == "identity"}
    return tuple(
        field.name
        for field in spec.schema
        if (field.metadata or {}).get(FIELD_ID) in ids and pa.types.is_string(field.type)
    )
