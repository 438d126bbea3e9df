"""The merge-on-read reader as a DataFusion table.

DataFusion takes any ``pyarrow.dataset.Dataset`` and asks it for four things only: its schema, a scanner's projected
schema, its fragments, and each fragment's batches. `MergeScan` answers these from `storage.tables.merge_on_read`, so
the rows stream through Python without ever being gathered.

Filters must not reach it: DataFusion hands a dataset its filters as *exact*, though pyarrow's ``isin`` and NaN rules
differ from SQL's. The scan stands below a ``LIMIT`` in its view, which no filter passes (`functions.scan`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

__all__ = ["MergeScan"]

Read = Callable[[int, pa.Schema], Iterator[pa.RecordBatch]]
"""(file index, schema of the wanted columns) → live rows."""


class MergeScan(ds.Dataset):  # type: ignore[misc]
    """Files ``indices`` of a snapshot, read by ``read``, in at most ``partitions`` concurrent streams."""

    def __init__(self, schema: pa.Schema, indices: Sequence[int], read: Read, partitions: int) -> None:
        # The base class forbids construction and needs none: DataFusion calls only what is defined here.
        self._schema = schema
        self._read = read
        shares = [list(indices[start::partitions]) for start in range(min(partitions, len(indices)))]
        self._shares = shares or [[]]

    @property
    def schema(self) -> pa.Schema:
        """The whole logical schema."""
        return self._schema

    def scanner(self, columns: list[str] | None = None, filter: Any = None, **_options: Any) -> _Scanner:
        """Return a scanner of all files."""
        return _Scanner(self, [index for share in self._shares for index in share], columns, filter)

    def get_fragments(self, filter: Any = None) -> list[_Fragment]:  # noqa: ARG002
        """Return one fragment for each concurrent stream."""
        return [_Fragment(self, share) for share in self._shares]


class _Fragment:
    def __init__(self, scan: MergeScan, indices: list[int]) -> None:
        self._scan, self._indices = scan, indices

    def scanner(self, _schema: pa.Schema, columns: list[str] | None = None, filter: Any = None, **_: Any) -> _Scanner:
        return _Scanner(self._scan, self._indices, columns, filter)


class _Scanner:
    def __init__(self, scan: MergeScan, indices: list[int], columns: list[str] | None, filter_: Any) -> None:
        if filter_ is not None:
            raise ValueError("a filter reached the merge-on-read scan, which does not apply any")
        self._scan, self._indices = scan, indices
        schema = scan.schema
        self.projected_schema = schema if columns is None else pa.schema([schema.field(name) for name in columns])

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        for index in self._indices:
            yield from self._scan._read(index, self.projected_schema)
