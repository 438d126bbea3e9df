"""Rows by their keys in Python and on the command line: in process, in a worker process, and over HTTP."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import firnline
from firnline import Connection, InvalidError
from firnline.lookup import wire_keys
from service.server import ServeSettings
from service.settings import EngineSettings
from tests.support.firn import firn
from tests.support.serving import serving

DAY = dt.date(2026, 1, 31)
AT = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("lake")
    with firnline.connect(place) as lake:
        lake.sql("CREATE TABLE users (id BIGINT, name VARCHAR, PRIMARY KEY (id)) USING delta")
        lake.append("users", {"id": [1, 2, 3], "name": ["Ada", "Bo", "Cy"]})
        lake.sql(
            "CREATE TABLE kinds (day DATE, at TIMESTAMPTZ, price DECIMAL(10, 2), code VARCHAR, raw BYTEA, x DOUBLE) "
            "USING delta"
        )
        lake.sql("INSERT INTO kinds VALUES ('2026-01-31', '2026-01-31T12:00:00Z', 1.50, '007', X'00ff', 0.5)")
    return place


@pytest.fixture(scope="module", params=["embedded", "isolated", "http"])
def lake(request: pytest.FixtureRequest, folder: Path) -> Iterator[Connection]:
    if request.param != "http":
        with firnline.connect(folder, isolated=request.param == "isolated") as connection:
            yield connection
        return
    settings = ServeSettings(engine=EngineSettings(lake=str(folder)), port=0)
    with serving(settings) as url, firnline.connect(url) as connection:
        yield connection


def test_rows_missing_keys_and_which_were_found(lake: Connection) -> None:
    result = lake.lookup("users", [3, 99, 1, 3])
    assert result.to_pylist() == [{"id": 3, "name": "Cy"}, {"id": 1, "name": "Ada"}, {"id": 3, "name": "Cy"}]
    assert result.missing == [99]
    assert result.found.tolist() == [True, False, True, True]
    assert result.receipt.rows == 3
    assert result.schema.metadata is None
    assert len(lake.lookup("users", [])) == 0


@pytest.mark.parametrize(
    "keys",
    [
        np.array([2, 99]),
        pa.array([2, 99]),
        pa.chunked_array([[2], [99]]),
        pa.table({"id": [2, 99]}),
        pl.Series([2, 99]),
        pl.DataFrame({"id": [2, 99]}),
        (each for each in (2, 99)),
        [np.int64(2), pa.scalar(99)],
    ],
    ids=lambda keys: type(keys).__name__,
)
def test_keys_of_every_kind(folder: Path, keys: Any) -> None:
    with firnline.connect(folder) as lake:
        result = lake.lookup("users", keys, columns="name")
    assert result.to_pylist() == [{"name": "Bo"}]
    assert [int(key) if not isinstance(key, pa.Scalar) else key.as_py() for key in result.missing] == [99]


@pytest.mark.parametrize(
    ("by", "key"),
    [
        ("day", DAY),
        ("at", AT),
        ("at", AT.astimezone(dt.timezone(dt.timedelta(hours=1)))),
        ("price", Decimal("1.5")),
        ("code", "007"),
        ("raw", b"\x00\xff"),
        ("x", 0.5),
        (("day", "code"), (DAY, "007")),
        (["raw", "price"], [b"\x00\xff", "1.50"]),
    ],
)
def test_values_of_every_type_find_their_row(lake: Connection, by: Any, key: Any) -> None:
    result = lake.lookup("kinds", [key], by=by, columns=["code"])
    assert result.to_pylist() == [{"code": "007"}]
    assert result.missing == []


def test_a_wrong_key_is_named(lake: Connection) -> None:
    with pytest.raises(InvalidError, match="NULL") as caught:
        lake.lookup("users", [1, None])
    assert caught.value.facts["key"] == 2
    with pytest.raises(InvalidError, match=r'"by"'):
        lake.lookup("kinds", ["007"])
    with pytest.raises(InvalidError, match=r"write \[key\] for one"):
        lake.lookup("users", "1")


def test_a_route_is_passed_on(lake: Connection) -> None:
    assert lake.sql("SELECT name FROM users WHERE id = 1", route="scan").to_pylist() == [{"name": "Ada"}]
    assert lake.lookup("users", [1], route="scan").column("name").to_pylist() == ["Ada"]


def test_keys_travel_as_answers_show_them() -> None:
    unique = uuid.UUID(int=7)
    assert wire_keys([1, "a", Decimal("1E+2"), unique, b"a", (DAY, float("inf")), np.datetime64("2026-01-31")]) == [
        1, "a", "100", str(unique), "YQ==", ["2026-01-31", "Infinity"], "2026-01-31",
    ]  # fmt: skip
    with pytest.raises(InvalidError, match="no JSON form"):
        wire_keys([object()])


def test_the_command_finds_rows_and_tells_what_is_missing(folder: Path) -> None:
    done = firn("lookup", "users", "3", "1", "--lake", str(folder), "--format", "csv")
    assert (done.returncode, done.stdout.decode()) == (0, "id,name\r\n3,Cy\r\n1,Ada\r\n")
    missing = firn("lookup", "users", "-", "-l", str(folder), "--columns", "name", "-f", "ndjson", stdin="99\n2\n")
    assert (missing.returncode, missing.stdout.decode()) == (1, '{"name":"Bo"}\n')
    assert missing.stderr.decode() == "not found: 99\n"
    text = firn("lookup", "kinds", '"007"', "--by", "code", "--columns", "code", "-l", str(folder), "-f", "csv")
    assert (text.returncode, text.stdout.decode()) == (0, "code\r\n007\r\n")
    wrong = firn("lookup", "users", "x", "-l", str(folder))
    assert wrong.returncode == 1
    assert "InvalidError" in wrong.stderr.decode()
