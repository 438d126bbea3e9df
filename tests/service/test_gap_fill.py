"""``gap_fill`` where a table may stand."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from storage.errors import FirnlineError, InvalidError, LimitError, SqlError, UnsupportedError
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio
HOURLY = "SELECT time_bucket('1 hour', ts) AS t, host, avg(v) AS v, max(n) AS n FROM m GROUP BY 1, 2"


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake") as opened:
        await opened.rows("CREATE TABLE m (ts TIMESTAMP NOT NULL, host TEXT, v DOUBLE, n INT)")
        await opened.rows(
            "INSERT INTO m VALUES (TIMESTAMP '2024-03-05 10:17:00', 'a', 1, 10), "
            "(TIMESTAMP '2024-03-05 13:01:00', 'a', 4, 40), (TIMESTAMP '2024-03-05 12:00:00', 'b', NULL, 7)"
        )
        yield opened


def hours(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [(t.hour, *rest) for t, *rest in rows]


@pytest.mark.parametrize(
    ("fill", "expected"),
    [
        ("null", [(10, "a", 1.0, 10), (11, "a", None, None), (12, "a", None, None), (13, "a", 4.0, 40)]),
        ("locf", [(10, "a", 1.0, 10), (11, "a", 1.0, 10), (12, "a", 1.0, 10), (13, "a", 4.0, 40)]),
        ("linear", [(10, "a", 1.0, 10.0), (11, "a", 2.0, 20.0), (12, "a", 3.0, 30.0), (13, "a", 4.0, 40.0)]),
    ],
)
async def test_every_series_has_a_row_at_every_time(lake: Lake, fill: str, expected: list[tuple[Any, ...]]) -> None:
    rows = hours(
        await lake.rows(
            f"SELECT t, host, v, n FROM gap_fill(({HOURLY}), 't', '1 hour', by => 'host', fill => '{fill}') AS g "
            "ORDER BY host, t"
        )
    )
    assert rows[:4] == expected
    assert [row[2] for row in rows[4:]] == [None] * 4
    assert [row[3] for row in rows[4:]] == ([None, None, 7, 7] if fill == "locf" else [None, None, 7, None])


async def test_bounds_are_half_open_and_what_is_outside_still_fills(lake: Lake) -> None:
    sql = (
        f"SELECT t, v FROM gap_fill(({HOURLY} HAVING max(n) > $1), 't', '1 hour', by => 'host', start => $2, "
        "finish => '2024-03-05T15:00:00Z', fill => 'locf') WHERE v > $3 ORDER BY t"
    )
    rows = await lake.rows(sql, [8, dt.datetime(2024, 3, 5, 11, 30), 0.5])
    assert hours(rows) == [(11, 1.0), (12, 1.0), (13, 4.0), (14, 4.0)]
    named = "SELECT count(*) FROM gap_fill((SELECT ts AS t FROM m WHERE n = :n), :t, '1 minute', finish => :f)"
    assert await lake.value(named, {"n": 10, "t": "t", "f": "2024-03-05T10:20:00"}) == 3


async def test_grids_of_months_and_of_another_origin(lake: Lake) -> None:
    days = "SELECT DATE '2024-01-31' AS d, 1 AS v UNION ALL SELECT DATE '2024-04-30', 4"
    rows = await lake.rows(f"SELECT d FROM gap_fill(({days}), 'd', '1 month', origin => '2000-01-31') ORDER BY d")
    assert rows == [(dt.date(2024, 1, 31),), (dt.date(2024, 2, 29),), (dt.date(2024, 3, 31),), (dt.date(2024, 4, 30),)]


async def test_a_grid_without_rows(lake: Lake) -> None:
    call = "SELECT count(*), count(t) FROM gap_fill((SELECT ts AS t, host FROM m WHERE false), 't', '1 hour'"
    assert await lake.rows(f"{call})") == [(0, 0)]
    bounds = "start => '2024-01-01', finish => '2024-01-02'"
    assert await lake.rows(f"{call}, {bounds})") == [(24, 24)]
    assert await lake.rows(f"{call}, by => 'host', {bounds})") == [(0, 0)]


async def test_it_stands_in_joins_in_itself_and_in_what_is_written(lake: Lake) -> None:
    inner = f"SELECT t, v FROM gap_fill(({HOURLY}), 't', '1 hour', by => 'host') WHERE host = 'a'"
    assert await lake.value(f"SELECT count(*) FROM gap_fill(({inner}), 't', '30 minutes') AS g JOIN m ON ts = t") == 1
    await lake.rows(f"CREATE TABLE k AS SELECT * FROM gap_fill(({HOURLY}), 't', '1 hour', by => 'host')")
    insert = f"INSERT INTO k SELECT * FROM gap_fill(({HOURLY} HAVING max(n) > $1), 't', '1 hour', by => 'host')"
    await lake.rows(insert, [20])
    assert await lake.rows("SELECT count(*), count(v) FROM k") == [(9, 3)]


async def test_literals_of_its_query_stay_where_they_are(lake: Lake) -> None:
    await lake.rows("CREATE TABLE d (t TIMESTAMP, x DECIMAL(10, 2))")
    await lake.rows("INSERT INTO d VALUES (TIMESTAMP '2024-01-01', 1086.60), (TIMESTAMP '2024-01-02', 1)")
    call = "gap_fill((SELECT t, x FROM d WHERE x = 1086.60), 't', '1 day')"
    assert await lake.value(f"SELECT count(*) FROM {call} AS g, d WHERE d.x = 1086.60") == 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ("(SELECT ts AS t FROM m), 't', '1 hour'", InvalidError, "starts no bucket.*time=2024-03-05 10:17:00"),
        ("(SELECT DATE '2024-01-01' AS t, * FROM m), 't', '1 day'", InvalidError, "two rows have one time"),
        ("(SELECT NULL::DATE AS t), 't', '1 day'", InvalidError, "a time of gap_fill is null"),
        ("(SELECT ts FROM m), 't', '1 hour'", InvalidError, "does not have column=t"),
        ("(SELECT 1 AS t), 't', '1 hour'", InvalidError, "timestamps or dates column=t type=int64"),
        (f"({HOURLY}), 't', '1 microsecond', by => 'host'", LimitError, "too many times"),
        ("(SELECT ts FROM m), 't', '1 fortnight'", InvalidError, "a width is a number and a unit"),
        ("(SELECT ts FROM m), 't', '0 hours'", InvalidError, "above zero"),
        ("(SELECT ts FROM m), 't', '1 hour', fill => 'magic'", InvalidError, "null, locf, linear"),
        ("(SELECT ts FROM m), 't', '1 hour', bye => 'host'", SqlError, "the options of gap_fill are by, .* column=59"),
        ("(SELECT ts FROM m), 't', '1 hour', start => 'now'", InvalidError, "no timestamp"),
        (
            "(SELECT ts FROM m), 't', '1 hour', start => '2025-01-01', finish => '2024-01-01'",
            InvalidError,
            "not before",
        ),
        ("(SELECT ts FROM m), 't'", SqlError, "expected ,"),
        ("(DELETE FROM m), 't', '1 hour'", SqlError, "takes a query line=1 column=25"),
        ("m, 't', '1 hour'", SqlError, r"write gap_fill\(\(SELECT"),
        ("(SELECT nope FROM m), 't', '1 hour'", SqlError, "no such column: nope.*line=1 column=32"),
        ("(SELECT ts FROM m WHERE ), 't', '1 hour'", SqlError, "expected: an expression"),
    ],
)
async def test_what_it_cannot_do_is_said(lake: Lake, call: str, error: type[FirnlineError], message: str) -> None:
    with pytest.raises(error, match=message):
        await lake.rows(f"SELECT * FROM gap_fill({call})")


async def test_without_numba_the_extra_is_named(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    for sql in (
        "SELECT l2_distance([1.0], [2.0])", "SELECT time_bucket('1 month', ts) FROM m",
        "SELECT * FROM gap_fill((SELECT DATE '2024-01-01' AS t), 't', '1 day')",
    ):  # fmt: skip
        with pytest.raises(UnsupportedError, match=r"firnline\[kernels\]"):
            await lake.rows(sql)
    assert await lake.value("SELECT time_bucket('1 day', max(ts)) FROM m") == dt.datetime(2024, 3, 5)
