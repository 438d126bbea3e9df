"""TPC-H: the eight tables as Parquet files from tpchgen-cli, and the 22 queries from DuckDB's tpch extension."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import REPOSITORY
from benchmarks.peers import duckdb_extension

__all__ = ["TABLES", "tpch_queries", "tpch_tables"]

TABLES = ("customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier")


def tpch_tables(scale: str, build: Path = REPOSITORY / "build") -> dict[str, str]:
    """Return table name → path of its Parquet file at a scale factor ("1", "0.01"); generated when not there yet."""
    folder = build / f"tpch-sf{scale}"
    if not all((folder / f"{name}.parquet").is_file() for name in TABLES):
        made = folder.with_name(folder.name + ".part")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        command = [str(_generator()), "parquet", "-s", scale, "--output-dir", str(made)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return {name: str(folder / f"{name}.parquet") for name in TABLES}


def tpch_queries() -> dict[int, str]:
    """Return query number → its text with the specification's validation parameters."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(f"LOAD '{duckdb_extension('tpch')}'")
        return dict(connection.execute("SELECT query_nr, query FROM tpch_queries() ORDER BY 1").fetchall())


def _generator() -> Path:
    beside = Path(sys.executable).parent / "tpchgen-cli"
    found = shutil.which("tpchgen-cli")
    if not beside.is_file() and found is None:
        raise FileNotFoundError("tpchgen-cli is missing: install the extra demo")
    return beside if beside.is_file() else Path(str(found))
