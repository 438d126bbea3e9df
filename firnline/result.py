"""Answers in Python: a whole one as `ResultTable`, a running one as `ResultStream`. Both hold Arrow and a receipt."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from firnline.transport import Answer
from service.statement import Receipt

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

__all__ = ["ResultStream", "ResultTable"]


class ResultTable:
    """The rows of an answer, in memory, and the `receipt` of what they cost.

    It behaves as the `pyarrow.Table` that it holds: it has every attribute of a table (``num_rows``, ``schema``,
    ``column``, ``select``, ``filter`` …), compares and indexes as one, and speaks Arrow's C stream protocol, so that
    ``polars.DataFrame(result)``, ``pyarrow.table(result)`` and DuckDB take it as it is.
    `arrow` returns the table itself, for functions that want nothing else.
    """

    __slots__ = ("_answer", "_table")

    def __init__(self, table: pa.Table, answer: Answer) -> None:
        self._table = table
        self._answer = answer

    @property
    def receipt(self) -> Receipt:
        """What the statement cost."""
        return self._answer.receipt()

    @property
    def schema(self) -> pa.Schema:
        """The columns' names and Arrow types."""
        return self._table.schema

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return int(self._table.num_rows)

    @property
    def column_names(self) -> list[str]:
        """The columns' names, in order; they may repeat."""
        return list(self._table.column_names)

    def arrow(self) -> pa.Table:
        """Return the table, without a copy."""
        return self._table

    def to_pandas(self, **options: Any) -> pd.DataFrame:
        """Return a pandas data frame; ``options`` are those of `pyarrow.Table.to_pandas`."""
        return self._table.to_pandas(**options)

    def to_polars(self) -> pl.DataFrame:
        """Return a Polars data frame."""
        import polars

        frame = polars.from_arrow(self._table)
        return frame if isinstance(frame, polars.DataFrame) else frame.to_frame()

    def to_pylist(self, **options: Any) -> list[dict[str, Any]]:
        """Return one dictionary for each row."""
        rows: list[dict[str, Any]] = self._table.to_pylist(**options)
        return rows

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in self.__slots__:
            raise AttributeError(name)
        return getattr(self._table, name)

    def __getitem__(self, key: Any) -> Any:
        return self._table[key]

    def __len__(self) -> int:
        return len(self._table)

    def __eq__(self, other: object) -> bool:
        other = other._table if isinstance(other, ResultTable) else other
        return bool(self._table == other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        from firnline.show import render

        return (
            render(self._table.slice(0, 20), width=120)
            + f"\n({self.num_rows:,} row{'' if self.num_rows == 1 else 's'})"
        )

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._table)})


class ResultStream:
    """A running statement whose batches are read as they come; closing it early cancels the statement.

    Iterate over it, hand it to anything that speaks Arrow's C stream protocol, or take `read_all`.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    @property
    def schema(self) -> pa.Schema:
        """The columns' names and Arrow types."""
        return self._answer.schema

    @property
    def receipt(self) -> Receipt:
        """What the statement cost so far; complete once the last batch is read."""
        return self._answer.receipt()

    def read_all(self) -> ResultTable:
        """Return the rows that are left."""
        batches = self._answer.read_all()
        return ResultTable(pa.Table.from_batches(batches, self.schema), self._answer)

    def reader(self) -> pa.RecordBatchReader:
        """Return an Arrow reader over the batches that are left."""
        return pa.RecordBatchReader.from_batches(self.schema, self)

    def close(self) -> None:
        """Cancel the statement if it still runs."""
        self._answer.close()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        batch = self._answer.read()
        if batch is None:
            raise StopIteration
        return batch

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.reader().__arrow_c_stream__(requested_schema)

    def __enter__(self) -> ResultStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
