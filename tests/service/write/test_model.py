"""Random statements on tables of both formats, with and without a primary key, beside SQLite and a dictionary."""

import asyncio
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import FirnlineError
from tests.support.lakes import Lake, open_lake

IDS = st.integers(0, 7)
NUMBERS = st.one_of(st.none(), st.integers(-5, 5))
NAMES = st.sampled_from(["a", "b", "c", None])
ROWS = st.lists(st.tuples(IDS, NUMBERS, NAMES), min_size=1, max_size=4)
CONDITIONS = st.one_of(
    IDS.map("id < {}".format),
    IDS.map("id = {}".format),
    st.sampled_from(
        ["n IS NULL", "s = 'a'", "n > 0 OR s IS NULL", "id IN (SELECT max(id) FROM t)", "true",
         "n = (SELECT min(x.n) FROM t x WHERE x.s = t.s)"]
    ),
)  # fmt: skip


def values(rows: Sequence[tuple[Any, ...]]) -> str:
    return ", ".join("(" + ", ".join(map(literal, row)) + ")" for row in rows)


def literal(value: Any) -> str:
    return "NULL" if value is None else f"'{value}'" if isinstance(value, str) else str(value)


def union(rows: Sequence[tuple[Any, ...]]) -> str:
    return " UNION ALL ".join(f"SELECT {row[0]} AS id, {literal(row[1])} AS v" for row in rows)


def distinct(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return list({row[0]: row for row in rows}.values())


SETS = st.sampled_from(["n = n + 1", "s = s || 'x', n = DEFAULT", "n = id, s = NULL", "n = 0 - n"])
PAIRS = st.lists(st.tuples(IDS, st.integers(1, 9)), min_size=1, max_size=3).map(distinct)
COMMON = st.one_of(
    ROWS.map(lambda rows: f"INSERT INTO t VALUES {values(rows)}"),
    st.tuples(IDS, IDS).map(
        lambda ids: f"INSERT INTO t (id, s) SELECT id + {ids[0]}, s FROM t WHERE id < {ids[1]} AND id + {ids[0]} < 20"
    ),
    st.tuples(SETS, CONDITIONS).map(lambda parts: f"UPDATE t SET {parts[0]} WHERE {parts[1]}"),
    PAIRS.map(lambda rows: f"UPDATE t SET n = v, s = 'u' FROM ({union(rows)}) AS src WHERE t.id = src.id AND v > 2"),
    CONDITIONS.map("DELETE FROM t WHERE {}".format),
    st.just("OPTIMIZE t"),
)  # fmt: skip
KEYED = st.one_of(
    COMMON,
    ROWS.map(lambda rows: f"INSERT INTO t VALUES {values(rows)} ON CONFLICT DO NOTHING"),
    ROWS.map(
        lambda rows: (
            f"INSERT INTO t VALUES {values(distinct(rows))} ON CONFLICT (id) DO UPDATE "
            "SET n = coalesce(t.n, 0) + excluded.n, s = excluded.s WHERE t.s IS NOT NULL"
        )
    ),
    IDS.map(lambda start: f"UPDATE t SET id = id + 30 WHERE id >= {start} AND id < 30"),
)


class Twin:
    """A lake's table and SQLite's."""

    def __init__(self, lake: Lake, keyed: bool) -> None:
        self.lake = lake
        self.sqlite = sqlite3.connect(":memory:")
        self.sqlite.execute(f"CREATE TABLE t (id INTEGER NOT NULL {'PRIMARY KEY' * keyed}, n INTEGER, s TEXT)")

    async def run(self, sql: str) -> None:
        expected: int | None = 0
        try:
            if not sql.startswith("OPTIMIZE"):
                expected = self.sqlite.execute(sql.replace("DEFAULT", "NULL")).rowcount
        except sqlite3.IntegrityError:
            expected = None
        found: int | None
        try:
            found = (await self.lake.rows(sql))[0][1]
        except FirnlineError as error:
            assert expected is None, f"{sql}: {error}"
            found = None
        assert found == expected, sql
        assert await self.rows() == sorted(self.sqlite.execute("SELECT id, n, s FROM t").fetchall(), key=repr), sql

    async def rows(self) -> list[tuple[Any, ...]]:
        return sorted(await self.lake.rows("SELECT id, n, s FROM t"), key=repr)


async def play(form: str, keyed: bool, statements: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with open_lake(Path(folder) / "lake", catalog="memory:") as lake:
            key = "PRIMARY KEY" * keyed
            await lake.rows(f"CREATE TABLE t (id BIGINT NOT NULL {key}, n BIGINT, s TEXT) USING {form}")
            twin = Twin(lake, keyed)
            for sql in statements:
                await twin.run(sql)
            twin.sqlite.close()


slow = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("form", ["delta", "iceberg"])
@slow
@given(st.lists(KEYED, min_size=1, max_size=7))
def test_tables_with_a_primary_key_answer_as_sqlite_does(form: str, statements: list[str]) -> None:
    asyncio.run(play(form, True, statements))


@pytest.mark.parametrize("form", ["delta", "iceberg"])
@slow
@given(st.lists(COMMON, min_size=1, max_size=6))
def test_tables_without_a_primary_key_answer_as_sqlite_does(form: str, statements: list[str]) -> None:
    asyncio.run(play(form, False, statements))


# MERGE, beside a dictionary

CLAUSES = st.lists(
    st.sampled_from(
        [
            ("matched", "v > 5", "delete"), ("matched", None, "update"), ("matched", "t.n < 0", "nothing"),
            ("not matched", "v < 3", "nothing"), ("not matched", None, "insert"),
            ("not matched by source", "t.id < 3", "delete"), ("not matched by source", None, "update"),
        ]
    ),
    min_size=1, max_size=4,
)  # fmt: skip
HOLDS = {
    None: lambda _n, _v, _id: True, "v > 5": lambda _n, v, _id: v > 5, "v < 3": lambda _n, v, _id: v < 3,
    "t.n < 0": lambda n, _v, _id: n is not None and n < 0, "t.id < 3": lambda _n, _v, id_: id_ < 3,
}  # fmt: skip
ACTIONS = {
    "delete": "DELETE", "nothing": "DO NOTHING", "insert": "INSERT (id, n) VALUES (src.id, v)",
}  # fmt: skip


def merged(rows: dict[int, int | None], source: dict[int, int], clauses: Sequence[tuple[str, str | None, str]]) -> dict:  # type: ignore[type-arg]
    after = dict(rows)
    for id_ in {*rows, *source}:
        when = (
            "matched" if id_ in rows and id_ in source else "not matched" if id_ in source else "not matched by source"
        )
        n, v = rows.get(id_), source.get(id_)
        for kind, condition, action in clauses:
            if kind == when and HOLDS[condition](n, v, id_):
                if action == "delete":
                    del after[id_]
                elif action == "insert":
                    after[id_] = v
                elif action == "update":
                    step = 100 if v is None else v
                    after[id_] = None if n is None else n + step
                break
    return after


def merge_sql(source: dict[int, int], clauses: Sequence[tuple[str, str | None, str]]) -> str:
    parts = []
    for when, condition, action in clauses:
        step = "100" if when == "not matched by source" else "v"
        act = ACTIONS.get(action, f"UPDATE SET n = t.n + {step}")
        parts.append(f"WHEN {when.upper()} {f'AND {condition}' if condition else ''} THEN {act}")
    return f"MERGE INTO t USING ({union(list(source.items()))}) AS src ON t.id = src.id {' '.join(parts)}"


@pytest.mark.parametrize("form", ["delta", "iceberg"])
@slow
@given(
    st.dictionaries(IDS, NUMBERS, max_size=5),
    st.dictionaries(IDS, st.integers(1, 9), min_size=1, max_size=4),
    CLAUSES,
    st.booleans(),
)
def test_a_merge_does_what_a_loop_over_rows_does(
    form: str,
    rows: dict[int, int | None],
    source: dict[int, int],
    clauses: list[tuple[str, str | None, str]],
    keyed: bool,
) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with open_lake(Path(folder) / "lake", catalog="memory:") as lake:
                await lake.rows(f"CREATE TABLE t (id INT NOT NULL {'PRIMARY KEY' * keyed}, n INT) USING {form}")
                if rows:
                    await lake.rows(f"INSERT INTO t VALUES {values(list(rows.items()))}")
                await lake.rows(merge_sql(source, clauses))
                assert dict(await lake.rows("SELECT id, n FROM t")) == merged(rows, source, clauses)

    asyncio.run(run())
