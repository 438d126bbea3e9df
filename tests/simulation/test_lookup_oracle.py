"""Look-ups against full scans and a plain model: whatever happened to a table, its indexes change no answer.

Each example makes a table of one of both formats, with or without a primary key, partitions and an order, and keys of
one of many types. It is then written, folded, compacted, altered and indexed in any order; segments are damaged and
lost. In between, statements that pin keys give the same rows by every route, and look-ups of keys those of the model.

``FIRN_ORACLE_EXAMPLES`` and ``FIRN_ORACLE_STEPS`` in the environment make it longer.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import itertools
import os
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from catalog.kv import Put
from service.compaction import Compaction, compact_lake, indexing_of
from service.components import open_engine
from service.engine import Engine
from service.executor import InlineExecutor
from service.found import found_of
from service.settings import EngineSettings
from service.statement import KeyLookup, Route, Statement
from storage.errors import ConflictError, InvalidError
from storage.log.settings import LogSettings

T = TypeVar("T")
Row = tuple[int | None, int, int | None, str | None]
"""Number of the id, partition, v, s."""
ROUTES: tuple[Route, ...] = ("scan", "auto", "lookup")
N_IDS = 24
BULK = 9_000
"""Rows that are inserted at once now and then: more than a block has."""


@dataclass(frozen=True)
class Kind:
    """A key type: the value of each number, growing with it, and as SQL and JSON have it."""

    sql: str
    value: Callable[[int], Any]
    literal: Callable[[Any], str]
    wire: Callable[[Any], Any]


def _text(number: int) -> str:
    return ("", "k", "key-with-a-long-prefix-", "ü")[number % 4] + f"{number:06d}"


def _same(value: Any) -> Any:
    return value


def _quoted(value: Any) -> str:
    return "'" + str(value) + "'"


KINDS = {
    "bigint": Kind("BIGINT", lambda n: n * 2**40 - 2**44, str, _same),
    "smallint": Kind("SMALLINT", lambda n: n - 7, str, _same),
    "double": Kind("DOUBLE", lambda n: (n - 8) / 4, lambda v: f"{v!r}", _same),
    "decimal": Kind("DECIMAL(20, 3)", lambda n: Decimal(n * 10**10 - 10**11).scaleb(-3), str, str),
    "varchar": Kind("VARCHAR", _text, _quoted, _same),
    "bytea": Kind(
        "BYTEA", lambda n: n.to_bytes(3, "big") + b"\x00" * (n % 3), lambda v: f"X'{v.hex()}'",
        lambda v: base64.b64encode(v).decode(),
    ),
    "date": Kind("DATE", lambda n: dt.date(1970, 1, 1) + dt.timedelta(n - 9), lambda v: f"DATE '{v}'", str),
    "timestamp": Kind(
        "TIMESTAMP", lambda n: dt.datetime(2026, 1, 1) + dt.timedelta(microseconds=n * 10**9 + n),
        lambda v: f"TIMESTAMP '{v.isoformat()}'", dt.datetime.isoformat,
    ),
    "timestamptz": Kind(
        "TIMESTAMPTZ", lambda n: dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=n - 20),
        lambda v: f"TIMESTAMPTZ '{v.isoformat()}'", dt.datetime.isoformat,
    ),
}  # fmt: skip
IDS = st.one_of(st.integers(0, N_IDS - 1), st.integers(0, N_IDS - 1), st.sampled_from([400, 8_291, 8_292, 9_250]))
NUMBERS = st.one_of(st.none(), st.integers(0, 5))
WORDS = st.sampled_from(["a", "b", None])
ROWS = st.lists(st.tuples(IDS, st.integers(0, 1), NUMBERS, WORDS), min_size=1, max_size=6)
KEYS = st.lists(IDS, min_size=1, max_size=8)


class LookupMachine(RuleBasedStateMachine):
    """``rows`` is the model; ``names`` are what the columns v and s are called now, None once they are dropped."""

    @initialize(
        kind=st.sampled_from(sorted(KINDS)), form=st.sampled_from(["delta", "iceberg"]), key=st.sampled_from([0, 1, 2]),
        partitioned=st.booleans(), order=st.sampled_from(["", "id", "v", "v, s", "part, id"]),
        for_lookups=st.booleans(), bulk=st.sampled_from([0, 0, 0, 0, 1, 2]), begun=st.booleans(),
    )  # fmt: skip
    def begin(
        self, kind: str, form: str, key: int, partitioned: bool, order: str, for_lookups: bool, bulk: int, begun: bool
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        if kind == "double":
            key = 0  # no primary key may be
        if form == "iceberg" and kind == "smallint":
            kind = "bigint"  # it has none
        self.kind, self.n_key, self.form = KINDS[kind], key, form
        self.rows: list[Row] = []
        self.names: dict[str, str | None] = {"v": "v", "s": "s"}
        self.count = itertools.count()
        self.indexes: list[str] = []
        self.external = False
        self.context = open_engine(EngineSettings(lake=str(Path(self.folder.name) / "lake")))
        self.engine: Engine = self.run(self.context.__aenter__())
        self.executor = InlineExecutor(self.engine, self.engine.clock)
        columns = f"id {self.kind.sql}, part BIGINT NOT NULL, v INTEGER, s VARCHAR"
        primary = ("", ", PRIMARY KEY (id)", ", PRIMARY KEY (id, part)")[key]
        if partitioned and key == 1:
            partitioned = False  # a key that is in two partitions would be two rows
        layout = " PARTITIONED BY (part)" * partitioned + f" ORDER BY ({order})" * bool(order)
        layout += " WITH (lookup = 'true')" * for_lookups
        self.sql(f"CREATE TABLE t ({columns}{primary}) USING {form}{layout}")
        for _ in range(bulk if kind in ("bigint", "varchar") else 0):
            first = 100 + 100 * next(self.count)
            self.put([(number, number % 2, number % 7, "bulk") for number in range(first, first + BULK)])
            self.sql("OPTIMIZE t")
        if begun:
            self.put([(number, number % 2, number % 6, None if number % 3 else "a") for number in range(0, N_IDS, 2)])
            self.sql("OPTIMIZE t")
            if not key:
                self.create_index("id", "")

    # What it works with

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    def sql(self, sql: str, route: Route = "auto") -> pa.Table:
        return self.run(self.answer(Statement(sql, f"s{next(self.count)}", route=route)))

    async def answer(self, statement: Statement) -> pa.Table:
        result = await self.executor.run(statement)
        return pa.Table.from_batches([batch async for batch in result.batches], result.schema)

    def id(self, number: int | None) -> Any:
        return None if number is None else self.kind.value(number)

    def literal(self, number: int | None) -> str:
        return "NULL" if number is None else self.kind.literal(self.id(number))

    def typed(self, number: int) -> str:
        """Return the literal in the column's own type: a decimal by itself is a double."""
        return f"CAST('{self.id(number)}' AS {self.kind.sql})" if "DECIMAL" in self.kind.sql else self.literal(number)

    def put(self, rows: Sequence[Row]) -> None:
        """Insert rows, over those of the same primary key."""
        if self.n_key:
            rows = list({self.key_of(row): row for row in rows}.values())
        kept = {name: found for name, found in self.names.items() if found is not None}
        text = ", ".join(
            f"({self.literal(row[0])}, {row[1]}"
            + "".join(f", {_literal(row[2 if name == 'v' else 3])}" for name in kept)
            + ")"
            for row in rows
        )
        over = ""
        if self.n_key:
            sets = ", ".join(f"{name} = excluded.{name}" for name in ("part", *kept.values()))
            sets = sets if self.n_key == 1 else sets.removeprefix("part = excluded.part, ")
            over = f" ON CONFLICT DO UPDATE SET {sets}" if sets else " ON CONFLICT DO NOTHING"
            if self.n_key == 2 and not kept:
                over = " ON CONFLICT DO NOTHING"
        self.sql(f"INSERT INTO t (id, part{''.join(', ' + name for name in kept.values())}) VALUES {text}{over}")
        if self.n_key:
            written = {self.key_of(row) for row in rows}
            self.rows = [row for row in self.rows if self.key_of(row) not in written]
        self.rows += rows

    def key_of(self, row: Row) -> tuple[Any, ...]:
        return row[: self.n_key]

    def shown(self, row: Row, columns: Sequence[str]) -> tuple[Any, ...]:
        values: Mapping[str | None, Any] = {
            "id": self.id(row[0]), "part": row[1], self.names["v"]: row[2], self.names["s"]: row[3],
        }  # fmt: skip
        return tuple(values[name] for name in columns)

    @property
    def columns(self) -> list[str]:
        return ["id", "part", *(name for name in self.names.values() if name is not None)]

    # What happens to the table

    @rule(rows=ROWS, nulls=st.booleans())
    def insert(self, rows: list[Row], nulls: bool) -> None:
        if nulls and not self.n_key:
            rows = [(None, *rows[0][1:]), *rows[1:]]
        self.put(rows)

    @rule(ids=KEYS, number=NUMBERS)
    def update(self, ids: list[int], number: int | None) -> None:
        name = self.names["v"]
        if name is None:
            return
        listed = ", ".join(map(self.literal, ids))
        self.sql(f"UPDATE t SET {name} = {_literal(number)} WHERE id IN ({listed})")
        self.rows = [(*row[:2], number, row[3]) if row[0] in ids else row for row in self.rows]

    @rule(ids=KEYS, part=st.one_of(st.none(), st.integers(0, 1)))
    def delete(self, ids: list[int], part: int | None) -> None:
        listed = ", ".join(map(self.literal, ids))
        self.sql(f"DELETE FROM t WHERE id IN ({listed})" + ("" if part is None else f" AND part = {part}"))
        self.rows = [row for row in self.rows if row[0] not in ids or part not in (None, row[1])]

    @rule(ids=KEYS)
    def merge(self, ids: list[int]) -> None:
        source = " UNION ALL ".join(f"SELECT {self.typed(each)} AS id" for each in sorted(set(ids)))
        self.sql(f"MERGE INTO t USING ({source}) AS src ON t.id = src.id AND t.part = 1 WHEN MATCHED THEN DELETE")
        self.rows = [row for row in self.rows if row[0] not in ids or row[1] != 1]

    @rule()
    def optimize(self) -> None:
        self.sql("OPTIMIZE t")

    @rule()
    def compact(self) -> None:
        engine = self.engine
        indexing = indexing_of(engine.stores, engine.kv, engine.clock, engine.lake)
        parts = Compaction(
            engine.stores, engine.logs, engine.tables, engine.clock, engine.lake, LogSettings(), indexing
        )
        report = self.run(compact_lake(parts))
        assert not report.errors, report.errors

    @precondition(lambda self: len(self.indexes) < 3)
    @rule(
        columns=st.sampled_from(["id", "id, part", "part, id", "v", "s", "id, v", "v, s", "part"]),
        kind=st.sampled_from(["", " USING learned", " USING locator"]),
    )
    def create_index(self, columns: str, kind: str) -> None:
        names = [self.names.get(name, name) for name in columns.split(", ")]
        if None in names:
            return
        index = f"i{next(self.count)}"
        try:
            self.sql(f"CREATE INDEX {index} ON t ({', '.join(map(str, names))}){kind}")
        except InvalidError as error:
            assert "learned" in kind or "partition" in str(error), error
            return
        self.indexes.append(index)

    @precondition(lambda self: self.indexes)
    @rule(data=st.data())
    def drop_index(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(self.indexes))
        self.indexes.remove(index)
        self.sql(f"DROP INDEX {index} ON t")

    @rule(name=st.sampled_from(["v", "s"]))
    def rename(self, name: str) -> None:
        if (old := self.names[name]) is None:
            return
        self.names[name] = new = f"{name}{next(self.count)}"
        self.altered(f"RENAME COLUMN {old} TO {new}")

    @precondition(lambda self: None not in self.names.values())
    @rule(name=st.sampled_from(["v", "s"]))
    def drop_column(self, name: str) -> None:
        old = self.names[name]
        if self.altered(f"DROP COLUMN {old}"):
            self.names[name] = None

    @rule()
    def widen(self) -> None:
        if self.names["v"] is not None:
            self.altered(f"ALTER COLUMN {self.names['v']} TYPE BIGINT")

    def altered(self, change: str) -> bool:
        """Change the table; what it may refuse is an index's or an order's column."""
        try:
            self.sql(f"ALTER TABLE t {change}")
        except (InvalidError, ConflictError) as error:
            if change.startswith("RENAME"):
                raise
            assert any(word in str(error) for word in ("order", "sort", "index", "already", "partition")), error
            return False
        return True

    @rule(lost=st.booleans(), which=st.sampled_from([None, None, None, 0, 1]))
    def damage(self, lost: bool, which: int | None) -> None:
        """Lose or damage a segment of an index, wherever it is stored."""
        if which is not None:
            self.run(self.damaged(lost, which))

    async def damaged(self, lost: bool, which: int) -> None:
        entries, _ = await self.engine.kv.range("segment/")
        if not entries:
            return
        entry = entries[which % len(entries)]
        value = None if lost else entry.value[:-9] + bytes([entry.value[-9] ^ 0xFF]) + entry.value[-8:]
        assert (await self.engine.kv.txn({entry.key: entry.revision}, [Put(entry.key, value)])).succeeded

    @precondition(lambda self: not self.external)
    @rule(kind=st.sampled_from(["", " USING learned", " USING locator"]))
    def open_outside(self, kind: str) -> None:
        """Open the table's files as an external table, with an index of its own."""
        self.sql("OPTIMIZE t")
        entry = self.run(self.engine.tables.get("default", "t"))
        self.sql(f"CREATE EXTERNAL TABLE e STORED AS {self.form} LOCATION '{entry.location}'")
        self.external = True
        try:
            self.sql(f"CREATE INDEX of_e ON e (id){kind}")
        except InvalidError as error:
            assert "learned" in kind, error

    @precondition(lambda self: self.external)
    @rule(ids=KEYS, route=st.sampled_from(["auto", "lookup"]))
    def ask_outside(self, ids: list[int], route: Route) -> None:
        """The external table's rows are those of a scan: of the files alone, without what is in the log."""
        listed = ", ".join(map(self.literal, ids))
        for condition in (f"id IN ({listed})", f"id = {self.literal(ids[0])} AND part = 1"):
            expected = self.sql(f"SELECT * FROM e WHERE {condition}", "scan")
            try:
                found = self.sql(f"SELECT * FROM e WHERE {condition}", route)
            except InvalidError:
                assert route == "lookup"
                continue
            assert sorted(_tuples(found), key=repr) == sorted(_tuples(expected), key=repr), (condition, route)

    @rule()
    def begin_anew(self) -> None:
        """Open the lake in a new process's stead: nothing is remembered."""
        self.run(self.context.__aexit__(None, None, None))
        self.context = open_engine(EngineSettings(lake=str(Path(self.folder.name) / "lake")))
        self.engine = self.run(self.context.__aenter__())
        self.executor = InlineExecutor(self.engine, self.engine.clock)

    # What must hold

    @rule(ids=KEYS, part=st.integers(0, 1), number=st.integers(0, 5), data=st.data())
    def ask(self, ids: list[int], part: int, number: int, data: st.DataObject) -> None:
        """Statements that pin keys give the model's rows by every route."""
        columns = data.draw(st.lists(st.sampled_from(self.columns), min_size=1, max_size=3, unique=True))
        for condition, wanted in self.conditions(ids, part, number):
            expected = sorted((self.shown(row, columns) for row in self.rows if wanted(row)), key=repr)
            for route in ROUTES:
                try:
                    found = self.sql(f"SELECT {', '.join(columns)} FROM t WHERE {condition}", route)
                except InvalidError:
                    assert route == "lookup"
                    continue
                assert found.column_names == columns
                assert sorted(_tuples(found), key=repr) == expected, (condition, route)

    def conditions(self, ids: list[int], part: int, number: int) -> list[tuple[str, Callable[[Row], bool]]]:
        """Return conditions that pin keys, or nearly do, and what they mean."""
        v, s = self.names["v"], self.names["s"]
        low, high = min(ids), max(ids)
        one, listed = self.literal(ids[0]), ", ".join(map(self.literal, ids))
        conditions: list[tuple[str, Callable[[Row], bool]]] = [
            (f"id = {one}", lambda row: row[0] == ids[0]),
            (f"id IN ({listed})", lambda row: row[0] in ids),
            (f"id = {one} AND part = {part}", lambda row: row[0] == ids[0] and row[1] == part),
            (f"id IN ({listed}) AND part IN (0, 1)", lambda row: row[0] in ids),
            (f"id = {one} OR id = {self.literal(ids[-1])}", lambda row: row[0] in (ids[0], ids[-1])),
            (f"id >= {self.literal(low)} AND id <= {self.literal(high)}", lambda row: _within(row[0], low, high)),
            (f"id BETWEEN {self.literal(low)} AND {self.literal(high)} AND part = {part}",
             lambda row: _within(row[0], low, high) and row[1] == part),
            (f"part = {part} AND NOT id = {one}", lambda row: row[1] == part and row[0] not in (None, ids[0])),
        ]  # fmt: skip
        if self.kind.sql in ("VARCHAR", "BYTEA"):
            conditions = [each for each in conditions if "BETWEEN" not in each[0] and ">=" not in each[0]]
        if v is not None:
            conditions.append((f"{v} = {number}", lambda row: row[2] == number))
            conditions.append((f"{v} BETWEEN {number} AND 4", lambda row: _within(row[2], number, 4)))
            conditions.append((f"id IN ({listed}) AND {v} = {number}", lambda row: row[0] in ids and row[2] == number))
        if s is not None:
            conditions.append((f"{s} IN ('a', 'zz')", lambda row: row[3] == "a"))
        return conditions

    @rule(ids=st.lists(IDS, min_size=1, max_size=40), parts=st.booleans(), route=st.sampled_from(["auto", "scan"]))
    def look_up(self, ids: list[int], parts: bool, route: Route) -> None:
        """A look-up gives the model's rows key by key."""
        by = ("id", "part") if parts else ("id",)
        keys: list[tuple[int, ...]] = [(number, number % 2) if parts else (number,) for number in ids]
        wire = [[self.kind.wire(self.id(key[0])), key[1]] if parts else self.kind.wire(self.id(key[0])) for key in keys]
        asked = KeyLookup(("default", "t"), wire, by)
        found = self.run(self.answer(Statement("", f"s{next(self.count)}", route=route, lookup=asked)))
        assert found.column_names == [*by, *(name for name in self.columns if name not in by)]
        expected = [
            sorted((self.shown(row, found.column_names) for row in self.rows if row[: len(by)] == key), key=repr)
            for key in keys
        ]
        told = found_of(found.schema, len(keys)).tolist()
        assert told == [bool(rows) for rows in expected]
        rows, start = _tuples(found), 0
        for each in expected:
            assert sorted(rows[start : start + len(each)], key=repr) == each
            start += len(each)
        assert start == len(rows)

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "engine"):
            assert self.sql("SELECT count(*) AS n FROM t").to_pylist() == [{"n": len(self.rows)}]

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.run(self.context.__aexit__(None, None, None))
            self.loop.close()
            self.folder.cleanup()


def _literal(value: Any) -> str:
    return "NULL" if value is None else f"'{value}'" if isinstance(value, str) else str(value)


def _within(number: int | None, low: int, high: int) -> bool:
    return number is not None and low <= number <= high


def _tuples(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


TestLookups = LookupMachine.TestCase
TestLookups.settings = settings(
    max_examples=int(os.environ.get("FIRN_ORACLE_EXAMPLES", "8")),
    stateful_step_count=int(os.environ.get("FIRN_ORACLE_STEPS", "14")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
