"""What finds a sorted key's block: the learned model, fences kept in memory, or a file's own footer and page index."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.lookup_data import wide_rows
from benchmarks.lookup_options import LookupOptions
from benchmarks.measure import median_of
from benchmarks.report import Table
from functions.index import piecewise
from functions.lookup_layout import GROUP_ROWS, encoding
from storage.tables.slices import BLOCK_ROWS

__all__ = ["HEADER", "fence_rows", "footer_table"]

HEADER = ["keys, way", "bytes a key", "nanoseconds", "one at a time, µs", "rows that remain"]
_PAGE_ROWS = 1_024
_REPEATS = 5
_ONE_BY_ONE = 2_000


def fence_rows(name: str, keys: np.ndarray, n_queries: int) -> list[list[str]]:
    """Time how the block of each of many keys is found; all ways find a block that has it.

    Parameters
    ----------
    keys : uint64[n], strictly increasing
    """
    random = np.random.default_rng(8)
    ranks = random.integers(0, len(keys), n_queries)
    queries = keys[ranks]
    model = piecewise.fit(keys)
    off = np.abs(model.predict(queries) - ranks).max()
    if off > model.error:
        raise AssertionError(f"the model is wrong keys={name} off={off}")
    rows = [_row(f"{name}, model", model.n_bytes / len(keys), queries, model.predict, 2 * model.error + 1)]
    for step in dict.fromkeys((BLOCK_ROWS, GROUP_ROWS, _PAGE_ROWS)):
        fences = keys[::step].copy()

        def block(some: np.ndarray, fences: np.ndarray = fences) -> np.ndarray:
            return fences.searchsorted(some, side="right") - 1

        if not np.array_equal(block(queries), ranks // step):
            raise AssertionError(f"the fences are wrong keys={name}")
        rows.append(_row(f"{name}, fences of {step:,} rows", fences.nbytes / len(keys), queries, block, step))
    return rows


def _row(name: str, n_bytes: float, queries: np.ndarray, find: Callable[[np.ndarray], object], rest: int) -> list[str]:
    many = _median(lambda: find(queries)) / len(queries)
    ones = [queries[at : at + 1] for at in range(min(_ONE_BY_ONE, len(queries)))]
    single = _median(lambda: [find(one) for one in ones]) / len(ones)
    return [name, f"{n_bytes:.5f}", f"{many * 1e9:.0f}", f"{single * 1e6:.1f}", f"{rest:,}"]


def footer_table(options: LookupOptions) -> Table:
    """Return what a reader has to read and parse that knows nothing of a file, in both layouts."""
    table = wide_rows(np.arange(options.local_rows, dtype=np.int64) * 2, 0)
    rows = []
    for name, group_rows, more in (
        ("the default layout", 128 << 10, {}),
        ("`lookup`", GROUP_ROWS, encoding(table)),
    ):
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=group_rows, compression="zstd", write_page_index=True, **more)
        data = sink.getvalue()
        length = int.from_bytes(data[-8:-4], "little")
        metadata = pq.read_metadata(pa.BufferReader(data))
        last = metadata.row_group(metadata.num_row_groups - 1).column(metadata.num_columns - 1)
        index = len(data) - 8 - length - (last.data_page_offset + last.total_compressed_size)
        tail = data[-8 - length :]
        seconds = _median(lambda tail=tail: pq.read_metadata(pa.BufferReader(tail)))  # type: ignore[misc]
        rows.append([name, f"{length / 1e3:,.0f}", f"{index / 1e3:,.0f}", f"{seconds * 1e3:.2f}", "2"])
    return Table(
        ["layout", "footer, KB", "page index, KB", "parse the footer, ms", "requests before the first of data"],
        rows,
        f"A file of {options.local_rows:,} rows of 16 columns of which nothing is known",
    )


def _median(act: Callable[[], object]) -> float:
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        act()
        times.append(time.perf_counter() - started)
    return median_of(times)
