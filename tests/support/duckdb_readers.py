"""DuckDB as another reader of our tables, with its extensions from their Python packages: nothing is downloaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import duckdb

__all__ = ["duckdb_with"]


def duckdb_with(*extensions: str) -> duckdb.DuckDBPyConnection:
    """Return a connection that has loaded these of ``delta``, ``iceberg`` (after ``avro``) and ``httpfs``."""
    connection = duckdb.connect()
    for name in extensions:
        connection.execute(f"LOAD '{_path(name)}'")
    return connection


def _path(name: str) -> Path:
    found = find_spec(f"duckdb_extension_{name}")
    assert found is not None, f"install duckdb-extension-{name} of DuckDB's own version"
    return next(
        path
        for folder in found.submodule_search_locations or []
        for path in Path(folder).rglob(f"{name}.duckdb_extension")
    )
