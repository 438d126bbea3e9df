"""A runner of sqllogictest files, over whatever runs SQL: in process, HTTP, or a function's adapter.

Records are separated by empty lines::

    statement ok                  statement error REGEX         query [rowsort]
    CREATE SCHEMA s               SELECT nope                   SELECT 1, 'a'
                                                                ----
                                                                1 a

``$DIR`` stands for the folder of `write_tables`. Values are separated by one space, rows by lines. See sqlite.org,
"sqllogictest".
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["Record", "Run", "create_tables", "read_records", "run_record", "shown", "write_tables"]

Run = Callable[[str], Awaitable[Iterable[Sequence[Any]]]]
"""SQL → rows of Python values, or of JSON values as the HTTP interface has them. Raises for an error."""


@dataclass(frozen=True)
class Record:
    """One statement or query with what is expected of it. ``error`` is a regular expression."""

    line: int
    sql: str
    rows: tuple[str, ...] | None = None
    sort: bool = False
    error: str | None = None


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file. Raises `ValueError` for one that is malformed."""
    line = 1
    for block in re.split(r"\n[ \t]*\n", path.read_text()):
        lines = [each for each in block.strip("\n").split("\n") if not each.startswith("#")]
        if any(lines):
            yield _record(line, lines)
        line += block.count("\n") + 2


def _record(line: int, lines: list[str]) -> Record:
    head, body = lines[0].split(" ", 2), lines[1:]
    if head[0] == "query":
        divider = body.index("----")
        return Record(line, "\n".join(body[:divider]), tuple(body[divider + 1 :]), "rowsort" in head)
    if head[:2] == ["statement", "ok"]:
        return Record(line, "\n".join(body))
    if head[:2] == ["statement", "error"]:
        return Record(line, "\n".join(body), error=head[2] if len(head) > 2 else "")
    raise ValueError(f"no record: {lines[0]!r} at line {line}")


async def run_record(record: Record, run: Run, folder: Path) -> None:
    """Run one record. Raises `AssertionError` when its outcome is another."""
    sql = record.sql.replace("$DIR", str(folder))
    try:
        rows = [" ".join(map(shown, row)) for row in await run(sql)]
    except Exception as error:
        assert record.error is not None, f"line {record.line}: {sql}\n{error}"
        assert re.search(record.error, str(error)), f"line {record.line}: {sql}\n{error}\nis not {record.error}"
        return
    assert record.error is None, f"line {record.line}: {sql}\nended well"
    if record.rows is not None:
        found, expected = (sorted(rows), sorted(record.rows)) if record.sort else (rows, list(record.rows))
        assert found == expected, f"line {record.line}: {sql}"


def shown(value: Any) -> str:
    """Return a value as the files write it; the JSON form of a value looks the same."""
    match value:
        case None:
            return "NULL"
        case bool():
            return str(value).lower()
        case float():
            return "NaN" if math.isnan(value) else f"{value:.6g}"
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case decimal.Decimal():
            return format(value, "f")
        case list() | dict() | tuple():
            return json.dumps(value, default=shown, ensure_ascii=False, separators=(",", ":"))
        case "":
            return "(empty)"
        case _:
            return re.sub(r"(T\d\d:\d\d:\d\d)\.0+$", r"\1", str(value))  # JSON writes a timestamp's whole fraction


def tables() -> dict[str, pa.Table]:
    """Return the tables that every file may use, by name."""
    people = pa.table(
        {
            "id": pa.array([1, 2, 3, 4, 5, 6], pa.int32()),
            "name": ["Ada", "Bo", "Cy", "Di", None, "Ünal"],
            "city": ["Oslo", "Bern", "Oslo", None, "Bern", "Rome"],
            "born": pa.array([dt.date(1990 + n, n + 1, 10 + n) for n in range(6)]),
            "score": [1.5, None, -2.25, 0.0, 3.75, 2.5],
        }
    )
    numbers = range(40)
    orders = pa.table(
        {
            "id": list(numbers),
            "person": pa.array([None if n % 13 == 12 else n % 7 + 1 for n in numbers], pa.int32()),
            "amount": pa.array([decimal.Decimal(n * n - 20 * n) / 4 for n in numbers], pa.decimal128(10, 2)),
            "at": pa.array([dt.datetime(2024, 1, 1) + dt.timedelta(hours=37 * n) for n in numbers], pa.timestamp("us")),
            "kind": [("web", "shop", "phone", None)[n % 4] for n in numbers],
            "tags": [[f"t{n % 3}", "x"][: n % 3] for n in numbers],
            "place": [{"zip": n % 5, "street": f"S{n % 2}"} for n in numbers],
        }
    )
    return {"people": people, "orders": orders}


def write_tables(folder: Path) -> None:
    """Write ``people.parquet``, ``orders/`` (Hive folders by kind), ``orders_delta`` and ``orders_iceberg``."""
    import deltalake
    from pyiceberg.catalog.sql import SqlCatalog

    people, orders = tables()["people"], tables()["orders"]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(people, folder / "people.parquet")
    for kind in ("web", "shop", "phone", None):
        mask = pa.array([each == kind for each in orders.column("kind").to_pylist()])
        part = folder / "orders" / f"kind={kind or '__HIVE_DEFAULT_PARTITION__'}"
        part.mkdir(parents=True)
        pq.write_table(orders.filter(mask).drop_columns("kind"), part / "part.parquet")
    catalog = SqlCatalog("c", uri=f"sqlite:///{folder}/iceberg.db", warehouse=f"file://{folder}/warehouse")
    catalog.create_namespace("n")
    iceberg = catalog.create_table("n.orders", orders.schema, location=f"file://{folder}/orders_iceberg")
    for start in range(0, 40, 10):
        deltalake.write_deltalake(folder / "orders_delta", orders.slice(start, 10), mode="append")
        iceberg.append(orders.slice(start, 10))
    catalog.close()


def create_tables(folder: Path) -> list[str]:
    """Return the statements that give the tables of `write_tables` the names that the files use."""
    places = [
        ("people", "parquet", "people.parquet"), ("orders", "parquet", "orders"),
        ("orders_delta", "delta", "orders_delta"), ("orders_iceberg", "iceberg", "orders_iceberg"),
    ]  # fmt: skip
    return [f"CREATE EXTERNAL TABLE {name} STORED AS {kind} LOCATION '{folder}/{path}'" for name, kind, path in places]
