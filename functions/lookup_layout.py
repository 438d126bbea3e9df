"""How files are encoded that are read a few rows at a time (table property ``firn.lookup``).

One block of rows should be one ranged read, and cheap to decode: a small row group is both. Values are stored plain and
compressed with zstd, which for row groups of 8,192 rows took less space than dictionaries (TPC-H lineitem: 0.87) and
less CPU time to decode (0.65); only long strings that repeat keep one. Decimals of up to 18 digits are integers.
lz4 would decode in 0.6 of zstd's time, and take 1.8 of its bytes.

A block is read whole, but only the pages that hold the rows of a key are decoded, so a page has 1,024: the columns of
one row of lineitem take 0.34 of the CPU time that they take without pages, for 1.09 of the bytes. Five pages are a
block: of 16 columns that is 280 KB, which come within a few milliseconds of the first byte, and 10 million rows have
blocks that eleven bits tell apart.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = ["GROUP_ROWS", "block_rows", "encoding"]

_SAMPLE_ROWS = 8_192
_PAGE_ROWS = 1_024
GROUP_ROWS = 5 * _PAGE_ROWS
"""Of a row group, which is one block of an index and one ranged read."""
_LONG_BYTES = 24
"""Strings of fewer bytes on average are stored plain even if they repeat: zstd finds that."""
_REPEATS_MIN = 8
_FEWEST_ROWS = 64


def encoding(rows: pa.Table) -> dict[str, Any]:
    """Return what `pyarrow.parquet.ParquetWriter` is told about the columns."""
    sample = rows.slice(0, _SAMPLE_ROWS)
    repeated = [name for name, column in zip(sample.schema.names, sample.columns, strict=True) if _repeats(column)]
    return {
        "use_dictionary": repeated or False,
        "store_decimal_as_integer": True,
        "max_rows_per_page": _PAGE_ROWS,
        "write_batch_size": _PAGE_ROWS,
    }


def _repeats(column: pa.ChunkedArray) -> bool:
    """Tell whether long strings occur in it again and again."""
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_binary(kind)) or column.null_count == len(column):
        return False
    n_values = len(column) - column.null_count
    if pc.sum(pc.binary_length(column)).as_py() < n_values * _LONG_BYTES:
        return False
    return bool(pc.count_distinct(column).as_py() * _REPEATS_MIN <= n_values)


def block_rows(rows: pa.Table, most: int, bytes_max: int, options: dict[str, Any]) -> int:
    """Return how many rows a row group may have, at most ``most``, so that it is about ``bytes_max`` bytes long.

    Told from the first row group, which is encoded for it unless its Arrow bytes are few enough.
    """
    first = rows.slice(0, most)
    if first.nbytes <= bytes_max or first.num_rows <= _FEWEST_ROWS:
        return most
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, rows.schema, **options) as writer:
        writer.write_table(first, row_group_size=first.num_rows)
    n_bytes = sink.tell()
    if n_bytes <= bytes_max:
        return most
    return max(_FEWEST_ROWS, int(first.num_rows * bytes_max // n_bytes))
