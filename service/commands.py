"""Statements about the catalog: parsed by hand, since DataFusion's own versions would touch its session only.

``CREATE SCHEMA [IF NOT EXISTS] ns`` · ``DROP SCHEMA [IF EXISTS] ns [CASCADE]`` ·
``CREATE EXTERNAL TABLE [IF NOT EXISTS] [ns.]t STORED AS parquet|delta|iceberg LOCATION '…' [OPTIONS ('k' 'v', …)]`` ·
``DROP TABLE [IF EXISTS] [ns.]t``
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from catalog.tables import DEFAULT_NAMESPACE, TableEntry, Tables
from service.lexer import Token, place
from service.parse import FORMATS, Parsed
from service.snapshots import SnapshotCache
from storage.clock import Clock
from storage.errors import ForbiddenError, InvalidError, SqlError, UnsupportedError
from storage.stores import Stores, normalize
from storage.tables.snapshot import At

__all__ = ["run_command"]


async def run_command(
    parsed: Parsed, role: str, tables: Tables, stores: Stores, snapshots: SnapshotCache, clock: Clock
) -> str:
    """Run a catalog statement and return one line that says what was done.

    Raises
    ------
    SqlError
        it is malformed; with line and column
    ForbiddenError
        the role is reader, or the location may not be reached
    """
    if role == "reader":
        raise ForbiddenError("a reader may not change the catalog; use a writer's or an admin's token", role=role)
    cursor = _Cursor(parsed)
    if cursor.skip("CREATE"):
        if cursor.skip("SCHEMA") or cursor.skip("NAMESPACE"):
            return await _create_schema(cursor, tables)
        if cursor.skip("EXTERNAL"):
            cursor.expect("TABLE")
            return await _create_table(cursor, tables, stores, snapshots, clock)
        word = cursor.peek()
        raise UnsupportedError(
            "only CREATE SCHEMA and CREATE EXTERNAL TABLE are supported", found=word.text if word else "nothing"
        )
    cursor.expect("DROP")
    if cursor.skip("SCHEMA") or cursor.skip("NAMESPACE"):
        return await _drop_schema(cursor, tables)
    cursor.skip("EXTERNAL")
    if not cursor.skip("TABLE"):
        cursor.fail("expected SCHEMA or TABLE")
    if_exists = cursor.skip_all("IF", "EXISTS")
    space, name = cursor.table_name()
    cursor.end()
    await tables.drop(space, name, if_exists=if_exists)
    return f"dropped table {space}.{name}; its files are untouched"


async def _create_schema(cursor: _Cursor, tables: Tables) -> str:
    if_not_exists = cursor.skip_all("IF", "NOT", "EXISTS")
    name = cursor.name()
    cursor.end()
    created = await tables.create_namespace(name, if_not_exists=if_not_exists)
    return f"created schema {name}" if created else f"schema {name} exists already"


async def _drop_schema(cursor: _Cursor, tables: Tables) -> str:
    if_exists = cursor.skip_all("IF", "EXISTS")
    name = cursor.name()
    cascade = cursor.skip("CASCADE")
    if not cascade:
        cursor.skip("RESTRICT")
    cursor.end()
    await tables.drop_namespace(name, if_exists=if_exists, cascade=cascade)
    return f"dropped schema {name}"


async def _create_table(cursor: _Cursor, tables: Tables, stores: Stores, snapshots: SnapshotCache, clock: Clock) -> str:
    if_not_exists = cursor.skip_all("IF", "NOT", "EXISTS")
    space, name = cursor.table_name()
    found = cursor.peek()
    if found is not None and found.text == "(":
        cursor.fail("an external table takes its columns from its files; leave the column list out")
    cursor.expect("STORED")
    cursor.expect("AS")
    format_ = cursor.name()
    if format_ not in FORMATS:
        raise UnsupportedError("unknown table format; use parquet, delta or iceberg", format=format_)
    cursor.expect("LOCATION")
    location = cursor.string()
    options = cursor.options()
    cursor.end()
    _check_options(format_, options, stores)
    if not options:
        location = normalize(location)
        stores.policy.check(location)
    snapshot = await snapshots.resolve(stores, format_, location, At(), options)
    entry = TableEntry(space, name, clock.new_id(), format_, location, clock.now_ms(), options)
    if not await tables.create(entry, if_not_exists=if_not_exists):
        return f"table {space}.{name} exists already"
    return f"created table {space}.{name} over {len(snapshot.files)} {format_} files"


def _check_options(format_: str, options: Mapping[str, str], stores: Stores) -> None:
    for key in options:
        if format_ != "iceberg" or not key.startswith("catalog."):
            raise InvalidError("unknown option; an iceberg table takes catalog.uri and the like", option=key)
    if options and stores.policy.prefixes is not None:
        # Its client opens what the properties name, past any path policy: a database, a URL, a Python class.
        raise ForbiddenError(
            "tables of an Iceberg catalog are registered by the lake's owner, not through a server; "
            "open the lake in process and create the table there"
        )


class _Cursor:
    """Reads tokens one by one and complains at the right place."""

    def __init__(self, parsed: Parsed) -> None:
        self._parsed, self._position = parsed, 0

    def peek(self) -> Token | None:
        tokens = self._parsed.tokens
        return tokens[self._position] if self._position < len(tokens) else None

    def fail(self, message: str) -> NoReturn:
        token = self.peek()
        offset = token.start if token else len(self._parsed.sql)
        found = repr(token.text) if token else "the end of the statement"
        raise SqlError(f"{message}, found {found}", **place(self._parsed.sql, offset))

    def skip(self, word: str) -> bool:
        token = self.peek()
        if token is not None and (token.is_word(word) or (token.kind == "symbol" and token.text == word)):
            self._position += 1
            return True
        return False

    def skip_all(self, *words: str) -> bool:
        if not self.skip(words[0]):
            return False
        for word in words[1:]:
            self.expect(word)
        return True

    def expect(self, word: str) -> None:
        if not self.skip(word):
            self.fail(f"expected {word}")

    def name(self) -> str:
        token = self.peek()
        if token is None or token.kind not in ("word", "quoted"):
            self.fail("expected a name")
        self._position += 1
        return token.name

    def string(self) -> str:
        token = self.peek()
        if token is None or token.kind != "string":
            self.fail("expected a string in single quotes")
        self._position += 1
        return token.text

    def table_name(self) -> tuple[str, str]:
        parts = [self.name()]
        while self.skip("."):
            parts.append(self.name())
        if len(parts) == 3 and parts[0] == "firnline":
            parts = parts[1:]
        if len(parts) > 2:
            self.fail("a table name is [schema.]table")
        return (DEFAULT_NAMESPACE, parts[0]) if len(parts) == 1 else (parts[0], parts[1])

    def options(self) -> dict[str, str]:
        options: dict[str, str] = {}
        if not self.skip("OPTIONS"):
            return options
        self.expect("(")
        while not self.skip(")"):
            key = self.string() if (token := self.peek()) is not None and token.kind == "string" else self._dotted()
            self.skip("=")
            options[key] = self.string()
            if not self.skip(","):
                self.expect(")")
                break
        return options

    def _dotted(self) -> str:
        parts = [self.name()]
        while self.skip("."):
            parts.append(self.name())
        return ".".join(parts)

    def end(self) -> None:
        if self.peek() is not None:
            self.fail("expected the end of the statement")
