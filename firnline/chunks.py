"""Rows that Python programs hold, as Arrow tables of a bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from storage.errors import InvalidError

__all__ = ["CHUNK_BYTES", "chunks_of"]

CHUNK_BYTES = 32 << 20
"""About how many bytes of Arrow data are appended at once."""


def chunks_of(data: Any, bytes_max: int = CHUNK_BYTES) -> Iterator[pa.Table]:
    """Yield the rows in tables of about ``bytes_max`` bytes, at least one table.

    The same data is cut in the same way every time. ``data`` is a pyarrow table, batch or reader, a pandas or Polars
    data frame, whatever else speaks Arrow's C stream protocol, a dictionary of columns or a list of dictionaries.
    Raises `InvalidError` for anything else.
    """
    try:
        batches = _batches(data)
        schema = next(batches)
        held: list[pa.RecordBatch] = []
        n_bytes = n_yielded = 0
        for batch in batches:
            step = max(1, bytes_max * batch.num_rows // max(batch.nbytes, 1))
            for start in range(0, batch.num_rows, step):
                part = batch.slice(start, step)
                if held and n_bytes + part.nbytes > bytes_max:
                    yield pa.Table.from_batches(held, schema)
                    n_yielded += 1
                    held, n_bytes = [], 0
                held.append(part)
                n_bytes += part.nbytes
        if held or not n_yielded:
            yield pa.Table.from_batches(held, schema)
    except pa.ArrowException as error:
        raise InvalidError(f"these rows cannot be made Arrow data: {str(error)[:300]}") from None


def _batches(data: Any) -> Iterator[Any]:
    """Yield the schema, then the batches."""
    if isinstance(data, pa.RecordBatchReader):
        yield data.schema
        yield from data
        return
    if isinstance(data, pa.RecordBatch):
        yield data.schema
        yield data
        return
    table = _table(data)
    if table is None:
        reader = pa.RecordBatchReader.from_stream(data)
        yield reader.schema
        yield from reader
        return
    yield table.schema
    yield from table.to_batches()


def _table(data: Any) -> pa.Table | None:
    """Return the data as a table; None for what is a stream of Arrow data."""
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, Mapping):
        return pa.table(dict(data))
    if type(data).__module__.startswith("pandas."):
        return pa.Table.from_pandas(data, preserve_index=False)
    if hasattr(data, "__arrow_c_stream__"):
        return None
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return _from_dictionaries(data)
    raise InvalidError(
        "rows are an Arrow table, batch or reader, a data frame, a dictionary of columns or a list of dictionaries",
        got=type(data).__name__,
    )


def _from_dictionaries(rows: Sequence[Any]) -> pa.Table:
    names: dict[Any, None] = {}
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InvalidError("each row of a list must be a dictionary", row=index + 1, got=type(row).__name__)
        names |= dict.fromkeys(row)
    columns = {}
    for name in names:
        if not isinstance(name, str):
            raise InvalidError("the names of columns are strings", got=repr(name)[:80])
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise InvalidError(f"the values of a column do not go together: {str(error)[:200]}", column=name) from None
    return pa.table(columns)
