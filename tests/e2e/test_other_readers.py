"""After DML and compaction deltalake, pyiceberg, Polars and DuckDB read the tables and agree with SQL to the row."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from functions.fold_log import fold_all
from tests.support.lakes import Lake, open_lake

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

_START = date(1970, 1, 1)


def _moment(chance: random.Random) -> datetime:
    return datetime(2024, 1, 1) + timedelta(microseconds=chance.randrange(10**15))


TYPES: dict[str, Callable[[random.Random], Any]] = {
    "BOOLEAN": lambda chance: chance.random() < 0.5,
    "INT": lambda chance: chance.randrange(-(2**31), 2**31),
    "BIGINT": lambda chance: chance.choice([0, -(2**63), 2**63 - 1, chance.randrange(10**6)]),
    "REAL": lambda chance: chance.choice([0.0, -1.5, 2.0**40]),
    "DOUBLE": lambda chance: chance.choice([0.0, -1.5, 1e300, 0.1]),
    "DECIMAL(18,4)": lambda chance: Decimal(chance.randrange(-(10**12), 10**12)).scaleb(-4),
    "DECIMAL(38,10)": lambda chance: Decimal(chance.randrange(-(10**30), 10**30)).scaleb(-10),
    "VARCHAR": lambda chance: chance.choice([" ", "a/b=c", "grün", LONG, "'", "null", str(chance.random())]),
    "VARBINARY": lambda chance: chance.choice([b"", b"\x00\xff", b"abc"]),
    "DATE": lambda chance: _START + timedelta(days=chance.randrange(-1000, 30_000)),
    "TIMESTAMP": _moment,
    "TIMESTAMP WITH TIME ZONE": lambda chance: _moment(chance).replace(tzinfo=UTC),
}
PARTITIONED = ("INT", "VARCHAR", "DATE", "BOOLEAN")


LONG = "x" * 300
"""Too long for a folder's name, so that the file of this partition lies outside of any ``column=value`` folder."""


def _rows(seed: int, n: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    rows = []
    for number in range(n):
        row: dict[str, Any] = {"id": number}
        for index, make in enumerate(TYPES.values()):
            row[f"c{index}"] = None if chance.random() < 0.15 else make(chance)
        rows.append(row)
    return rows


def _ddl(name: str, format_: str, partition: str | None, keyed: bool) -> str:
    columns = ", ".join(f"c{index} {kind}" for index, kind in enumerate(TYPES))
    by = f" PARTITIONED BY (c{list(TYPES).index(partition)})" if partition else ""
    key = " PRIMARY KEY" if keyed else ""
    return f"CREATE TABLE {name} (id BIGINT{key}, {columns}) USING {format_}{by}"


async def _fill(lake: Lake, name: str, seed: int) -> None:
    """Rows by append, then DML, and everything folded."""
    from service.executor import InlineExecutor
    from service.ingest.ingest import Asked, ingest_table
    from service.statement import Statement

    entry = await lake.engine.tables.get("default", name)
    assert entry.managed is not None
    rows = pa.Table.from_pylist(_rows(seed, 60), schema=entry.managed.spec.schema)
    executor = InlineExecutor(lake.engine, lake.engine.clock)
    statement = Statement("", "append", role="writer")
    await ingest_table(lake.engine, "default", name, rows, Asked(None, None, None), executor, statement)
    await _fold(lake)
    await lake.table(f"UPDATE {name} SET c2 = 7, c7 = 'updated' WHERE id % 7 = 3")
    await lake.table(f"DELETE FROM {name} WHERE id % 5 = 0")
    await lake.table(f"INSERT INTO {name} (id, c2) VALUES (1000, 1), (1001, NULL)")
    await _fold(lake)
    await lake.table(f"OPTIMIZE {name}")


async def _fold(lake: Lake) -> None:
    engine = lake.engine
    for entry in await engine.tables.all():
        if entry.managed is not None:
            await (await engine.logs.log(entry.managed.shard)).flush()
    report = await fold_all(engine.stores, engine.logs, engine.tables, engine.clock)
    assert report.errors == {}


def _comparable(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat() if value.tzinfo else value.isoformat()
    if isinstance(value, Decimal):
        return str(value.normalize())
    return repr(value) if isinstance(value, float) else value


def _sorted(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    names = sorted(rows[0])
    return sorted((tuple(_comparable(row[name]) for name in names) for row in rows), key=repr)


def _deltalake(source: str) -> list[dict[str, Any]]:
    from deltalake import DeltaTable

    return DeltaTable(source).to_pyarrow_table().to_pylist()  # type: ignore[no-any-return]


def _pyiceberg(source: str) -> list[dict[str, Any]]:
    from pyiceberg.table import StaticTable

    return StaticTable.from_metadata(source).scan().to_arrow().to_pylist()


def _polars_delta(source: str) -> list[dict[str, Any]]:
    import polars

    return polars.read_delta(source).to_arrow().to_pylist()


def _polars_iceberg(source: str) -> list[dict[str, Any]]:
    import polars

    return polars.scan_iceberg(source).collect().to_arrow().to_pylist()


def _duckdb_delta(source: str) -> list[dict[str, Any]]:
    return _duckdb(f"SELECT * FROM delta_scan('{source}')", "delta")


def _duckdb_iceberg(source: str) -> list[dict[str, Any]]:
    return _duckdb(f"SELECT * FROM iceberg_scan('{source}')", "avro", "iceberg")


def _duckdb(sql: str, *extensions: str) -> list[dict[str, Any]]:
    from tests.support.duckdb_readers import duckdb_with

    with duckdb_with(*extensions) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.execute(sql).to_arrow_table()
        return found.to_pylist()  # type: ignore[no-any-return]


READERS = {
    "deltalake": ("delta", _deltalake),
    "Polars, delta": ("delta", _polars_delta),
    "DuckDB, delta": ("delta", _duckdb_delta),
    "pyiceberg": ("iceberg", _pyiceberg),
    "Polars, iceberg": ("iceberg", _polars_iceberg),
    "DuckDB, iceberg": ("iceberg", _duckdb_iceberg),
}


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "keyed"])
@pytest.mark.parametrize("partition", [None, *PARTITIONED], ids=lambda kind: kind or "whole")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.filterwarnings("default")  # other readers' own
async def test_another_reader_agrees_to_the_row(
    reader: str, partition: str | None, keyed: bool, tmp_path: Path
) -> None:
    format_, read = READERS[reader]
    async with open_lake(tmp_path / "lake") as lake:
        await lake.table(_ddl("t", format_, partition, keyed))
        await _fill(lake, "t", seed=len(reader) + PARTITIONED.index(partition) if partition else 0)
        entry = await lake.engine.tables.get("default", "t")
        ours = (await lake.table("SELECT * FROM t")).to_pylist()
        assert len(ours) > 40
        if reader == "Polars, delta" and partition == "VARCHAR":
            # Polars takes partition values from folder names, not from the log.
            await lake.table(f"DELETE FROM t WHERE c7 = '{LONG}'")
            await _fold(lake)
            ours = (await lake.table("SELECT * FROM t")).to_pylist()
        theirs = read(entry.source.removeprefix("file://"))
        assert _sorted(theirs) == _sorted(ours)
