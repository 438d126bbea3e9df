"""Rows appended from Python, to a lake in this process and to a server."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import firnline
from firnline.chunks import chunks_of
from firnline.connection import Connection, connect, connect_runner
from service.server import ServeSettings
from service.settings import EngineSettings
from storage.errors import ConflictError, InvalidError, NotFoundError, UnsupportedError
from tests.support.patient_runner import open_patient_runner
from tests.support.serving import serving

DDL = [
    "CREATE TABLE events (id BIGINT NOT NULL, name VARCHAR, price DECIMAL(10,2)) USING delta",
    "CREATE TABLE users (id BIGINT NOT NULL, name VARCHAR, PRIMARY KEY (id)) USING delta",
]


@pytest.fixture(scope="module", params=["embedded", "http"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    folder = tmp_path_factory.mktemp("lake")
    if request.param == "embedded":
        with connect(folder) as connection:
            yield connection
    else:
        with serving(ServeSettings(EngineSettings(lake=str(folder)), port=0)) as url, connect(url) as connection:
            yield connection


@pytest.fixture
def lake(opened: Connection) -> Connection:
    for table in ("events", "users"):
        opened.sql(f"DROP TABLE IF EXISTS {table}")
    return _filled(opened)


def _filled(connection: Connection) -> Connection:
    for statement in DDL:
        connection.sql(statement)
    return connection


def rows(lake: Connection, table: str = "events") -> list[dict[str, Any]]:
    return lake.sql(f"SELECT * FROM {table} ORDER BY id").to_pylist()


def test_rows_of_every_kind_are_durable_and_seen_by_the_next_query(lake: Connection) -> None:
    told = lake.append("events", {"id": [1, 2], "name": ["a", None]})
    assert isinstance(told, firnline.AppendReceipt)
    assert (told.table, told.rows, told.ack, told.parts, told.replayed) == ("default.events", 2, "fsync", 1, 0)
    assert [row["id"] for row in rows(lake)] == [1, 2]
    lake.append("default.events", [{"id": 3}, {"id": 4, "price": Decimal("1.5")}])
    lake.append("events", pa.table({"id": [5]}))
    lake.append("events", pa.record_batch({"id": [6]}))
    lake.append("events", pa.table({"id": [7]}).to_reader())
    lake.append("events", pd.DataFrame({"id": [8], "name": ["p"]}))
    lake.append("events", pl.DataFrame({"id": [9], "name": ["q"]}))
    lake.append("events", lake.sql("SELECT id + 9 AS id, name FROM events WHERE id = 1"))
    assert [row["id"] for row in rows(lake)] == list(range(1, 11))
    assert rows(lake)[3]["price"] == Decimal("1.50")
    assert lake.append("events", {"id": []}).rows == 0
    assert lake.append("events", {"id": [11]}, ack="object").ack == "object"


def test_a_key_is_replaced_kept_or_refused(lake: Connection) -> None:
    lake.append("users", {"id": [1, 2], "name": ["a", "b"]})
    lake.append("users", {"id": [2, 3], "name": ["B", "c"]})
    assert [row["name"] for row in rows(lake, "users")] == ["a", "B", "c"]
    told = lake.append("users", {"id": [3, 4], "name": ["C", "d"]}, on_conflict="nothing")
    assert told.rows == 1
    with pytest.raises(ConflictError):
        lake.append("users", {"id": [4, 5], "name": ["D", "e"]}, on_conflict="error")
    assert [row["name"] for row in rows(lake, "users")] == ["a", "B", "c", "d"]


def test_the_same_idempotency_key_stores_its_rows_once(lake: Connection) -> None:
    first = lake.append("events", {"id": [1]}, idempotency_key="k")
    second = lake.append("events", {"id": [1]}, idempotency_key="k")
    assert (first.rows, first.replayed, second.rows, second.replayed) == (1, 0, 0, 1)
    assert len(rows(lake)) == 1


def test_large_data_is_stored_in_parts_that_a_retry_does_not_double(lake: Connection) -> None:
    data = pa.table({"id": range(400_000), "name": ["x" * 100] * 400_000})
    told = lake.append("events", data, idempotency_key="k")
    assert (told.rows, told.parts, told.replayed) == (400_000, 2, 0)
    again = lake.append("events", data, idempotency_key="k")
    assert (again.rows, again.parts, again.replayed) == (0, 2, 2)
    assert lake.sql("SELECT count(*) AS n, count(DISTINCT id) AS d FROM events").to_pylist() == [
        {"n": 400_000, "d": 400_000}
    ]


def test_an_error_names_the_row_and_what_was_stored_before_it(lake: Connection) -> None:
    with pytest.raises(InvalidError) as raised:
        lake.append("events", [{"id": 1}, {"id": 2, "price": Decimal("1.005")}])
    assert (raised.value.facts["row"], raised.value.facts["column"]) == (2, "price")
    assert rows(lake) == []
    ids = [*range(400_000), None]
    with pytest.raises(InvalidError) as raised:
        lake.append("events", pa.table({"id": pa.array(ids, pa.int64()), "name": ["x" * 100] * len(ids)}))
    assert (raised.value.facts["row"], raised.value.facts["column"]) == (400_001, "id")
    assert raised.value.facts["rows_stored"] == lake.sql("SELECT count(*) AS n FROM events").to_pylist()[0]["n"] > 0
    for wrong in ({"idd": [1]}, {"id": ["1"]}, {"id": [1.0]}, 5, "text", [5], {"id": [1], "name": [dt.date.max]}):
        with pytest.raises(InvalidError):
            lake.append("events", wrong)
    with pytest.raises(NotFoundError):
        lake.append("none", {"id": [1]})
    for option in ({"ack": "maybe"}, {"on_conflict": "maybe"}, {"idempotency_key": ""}, {"on_conflict": "nothing"}):
        with pytest.raises(InvalidError):
            lake.append("events", {"id": [1]}, **option)


def test_an_isolated_lake_takes_rows_too(tmp_path: Path) -> None:
    with connect(tmp_path / "lake", isolated=True) as lake:
        _filled(lake)
        lake.append("users", {"id": [1, 2]})
        assert [row["id"] for row in rows(lake, "users")] == [1, 2]
        lake.append("users", {"id": [2, 3]}, on_conflict="nothing")
        assert [row["id"] for row in rows(lake, "users")] == [1, 2, 3]


def test_a_runner_of_ones_own_takes_no_rows() -> None:
    with connect_runner(open_patient_runner) as lake, pytest.raises(UnsupportedError):
        lake.append("events", {"id": [1]})


def test_data_is_cut_in_the_same_way_every_time() -> None:
    table = pa.table({"id": range(1000), "name": ["x" * 100] * 1000})
    parts = [part.num_rows for part in chunks_of(table, 10_000)]
    assert parts == [part.num_rows for part in chunks_of(table, 10_000)]
    assert sum(parts) == 1000
    assert len(parts) > 5
    many = pa.concat_tables([table.slice(start, 1) for start in range(1000)])
    assert len(list(chunks_of(many, 10_000))) > 5
    assert [part.num_rows for part in chunks_of(table.slice(0, 0))] == [0]
