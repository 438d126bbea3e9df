"""Statements about the catalog: parsed by hand, since DataFusion's own versions would touch its session only.

``CREATE SCHEMA [IF NOT EXISTS] ns`` · ``DROP SCHEMA [IF EXISTS] ns [CASCADE]`` ·
``CREATE EXTERNAL TABLE [IF NOT EXISTS] [ns.]t STORED AS parquet|delta|iceberg LOCATION '…' [OPTIONS ('k' 'v', …)]``;
CREATE TABLE and DROP TABLE are in `service.write`.
"""

from __future__ import annotations

from collections.abc import Mapping

from catalog.tables import TableEntry, Tables
from service.cursor import Cursor
from service.parse_rewrite import FORMATS
from service.parsed import Parsed
from service.snapshots import SnapshotCache
from storage.clock import Clock
from storage.errors import ForbiddenError, InvalidError, UnsupportedError
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
    cursor = Cursor(parsed.sql, parsed.tokens)
    if cursor.skip("CREATE"):
        if cursor.skip("SCHEMA") or cursor.skip("NAMESPACE"):
            return await _create_schema(cursor, tables)
        if cursor.skip("EXTERNAL"):
            cursor.expect("TABLE")
            return await _create_table(cursor, tables, stores, snapshots, clock)
        word = cursor.peek()
        raise UnsupportedError(
            "only CREATE SCHEMA, TABLE and EXTERNAL TABLE are supported", found=word.text if word else "nothing"
        )
    cursor.expect("DROP")
    if cursor.skip("SCHEMA") or cursor.skip("NAMESPACE"):
        return await _drop_schema(cursor, tables)
    raise cursor.error("expected SCHEMA or TABLE")


async def _create_schema(cursor: Cursor, tables: Tables) -> str:
    if_not_exists = cursor.skip_all("IF", "NOT", "EXISTS")
    name = cursor.name()
    cursor.end()
    created = await tables.create_namespace(name, if_not_exists=if_not_exists)
    return f"created schema {name}" if created else f"schema {name} exists already"


async def _drop_schema(cursor: Cursor, tables: Tables) -> str:
    if_exists = cursor.skip_all("IF", "EXISTS")
    name = cursor.name()
    cascade = cursor.skip("CASCADE")
    if not cascade:
        cursor.skip("RESTRICT")
    cursor.end()
    await tables.drop_namespace(name, if_exists=if_exists, cascade=cascade)
    return f"dropped schema {name}"


async def _create_table(cursor: Cursor, tables: Tables, stores: Stores, snapshots: SnapshotCache, clock: Clock) -> str:
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
    options = cursor.pairs() if cursor.skip("OPTIONS") else {}
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
