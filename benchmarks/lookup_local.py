"""``SELECT * … WHERE id = ?`` on the local disk, in process, beside SQLite and DuckDB."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

import firnline
from benchmarks.lookup_data import COLUMNS, MADE, VERSION, wide_rows
from benchmarks.lookup_options import LookupOptions
from benchmarks.machine import versions
from benchmarks.measure import ms, percentile, ratio
from benchmarks.progress import progress
from benchmarks.report import Section, Table

__all__ = ["local_lake", "measure_local"]

QUERY = "SELECT * FROM wide WHERE id = ?"


def _rows(options: LookupOptions) -> pa.Table:
    return wide_rows(np.arange(options.local_rows, dtype=np.int64) * 2, 0)


def local_lake(options: LookupOptions) -> Path:
    """Return a lake with the table ``wide``, keyed by ``id``, folded and indexed; made where it is not there yet."""
    root = options.build / f"lookup-local-{options.local_rows}"
    lake, made = root / "lake", root / MADE
    wanted = json.dumps({"version": VERSION})
    if made.exists() and made.read_text() == wanted:
        return lake
    shutil.rmtree(root, ignore_errors=True)
    with firnline.connect(str(lake)) as connection:
        shape = "USING delta WITH (lookup = 'true')"
        connection.sql(f"CREATE TABLE wide ({COLUMNS}, PRIMARY KEY (id)) {shape}")
        rows = _rows(options)
        step = 200_000
        for start in range(0, rows.num_rows, step):
            connection.append("wide", rows.slice(start, step))
        connection.sql("OPTIMIZE wide")
    made.write_text(wanted)
    return lake


def measure_local(options: LookupOptions) -> Section:
    """Return p50 and p99 of a hit and a miss."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    progress("local", "firnline")
    with firnline.connect(str(local_lake(options))) as connection:

        def by_sql(key: int) -> int:
            return int(connection.sql("SELECT * FROM wide WHERE id = $1", [key]).num_rows)

        def by_key(key: int) -> int:
            return int(connection.lookup("wide", [key]).num_rows)

        found["firnline, SELECT"] = _timed(options, by_sql)
        found["firnline, .lookup"] = _timed(options, by_key)
    progress("local", "SQLite and DuckDB")
    with tempfile.TemporaryDirectory(dir=options.build) as name:
        found["SQLite, primary key"] = _timed(options, _sqlite(Path(name), options))
        found["DuckDB, its own file, primary key"] = _timed(options, _duckdb(Path(name), options, True))
        found["DuckDB, its own file, no index"] = _timed(options, _duckdb(Path(name), options, False))
    base = percentile(found["firnline, SELECT"][0], 50)
    rows = [
        [name, ms(percentile(hits, 50)), ms(percentile(hits, 99)), ms(percentile(misses, 50)),
         ratio(percentile(hits, 50), base)]
        for name, (hits, misses) in found.items()
    ]  # fmt: skip
    return Section(
        "local",
        "One key on the local disk, in process",
        [
            f"`{QUERY}`, {options.local_rows:,} rows of 16 columns, {options.misses} look-ups of other keys one after "
            f"another. {versions(['firnline', 'duckdb'])}, SQLite {sqlite3.sqlite_version}."
        ],
        [Table(["", "hit p50 ms", "p99 ms", "miss p50 ms", "p50 ÷ firnline, SELECT"], rows)],
    )


def _timed(options: LookupOptions, ask: Callable[[int], int]) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(5)
    found = []
    for absent in (0, 1):
        seconds = []
        for number in rng.integers(0, options.local_rows, options.misses + 20):
            started = time.perf_counter()
            n_rows = ask(int(number) * 2 + absent)
            seconds.append(time.perf_counter() - started)
            if n_rows != 1 - absent:
                raise RuntimeError(f"{n_rows} rows of key {number * 2 + absent}")
        found.append(seconds[20:])
    return found[0], found[1]


def _sqlite(folder: Path, options: LookupOptions) -> Callable[[int], int]:
    connection = sqlite3.connect(folder / "sqlite.db")
    rows = _rows(options)
    columns = ", ".join(f"{name} PRIMARY KEY" if name == "id" else name for name in rows.column_names)
    connection.execute(f"CREATE TABLE wide ({columns})")
    plain = rows.set_column(rows.schema.get_field_index("amount"), "amount", rows["amount"].cast(pa.float64()))
    plain = plain.set_column(plain.schema.get_field_index("ts"), "ts", plain["ts"].cast(pa.int64()))
    marks = ", ".join("?" * plain.num_columns)
    for batch in plain.to_batches(max_chunksize=100_000):
        values = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        connection.executemany(f"INSERT INTO wide VALUES ({marks})", values)
    connection.commit()
    return lambda key: len(connection.execute(QUERY, (key,)).fetchall())


def _duckdb(folder: Path, options: LookupOptions, indexed: bool) -> Callable[[int], int]:
    import duckdb

    connection = duckdb.connect(str(folder / f"duck{indexed}.db"))
    rows = _rows(options)
    connection.execute("CREATE TABLE wide AS SELECT * FROM rows")
    if indexed:
        connection.execute("ALTER TABLE wide ADD PRIMARY KEY (id)")
    connection.execute("CHECKPOINT")
    del rows
    return lambda key: int(connection.execute(QUERY, [key]).to_arrow_table().num_rows)
