"""CREATE TABLE and CREATE TABLE … AS SELECT.

The table's own metadata is written first, then the catalog's entry: a crash between leaves a folder that nothing names.
Whoever loses a race for the name leaves the winner's files alone, since each table has a folder of its own.
"""

from __future__ import annotations

import pyarrow as pa

from catalog.logs import shard_of
from catalog.tables import Managed, TableEntry
from catalog.writers import create_table as catalog_create
from functions.layout import write_files
from functions.partition_values import check_partition_values
from service.write.compose import Text
from service.write.context import Outcome, Work
from service.write.feed import answer
from service.write.fit import fit_table
from service.write.keys import check_unique
from service.write.mutate import committed_before
from service.write.spec import offered_type, spec_of
from service.write.statements import CreateTable
from storage.errors import ConflictError, NotFoundError
from storage.stores import join, normalize
from storage.tables.write import DataFile

__all__ = ["create_table", "location_of"]


async def create_table(work: Work, statement: CreateTable) -> Outcome:
    """Make a table, with the rows of its query if it has one.

    Raises
    ------
    ConflictError
        the name is taken
    NotFoundError
        no such namespace
    """
    space, name = statement.table
    if work.key is not None and await _made_before(work, statement):
        return Outcome(f"done before to {space}.{name}, under the same idempotency key")
    if await _exists(work, statement):
        return Outcome(f"table {space}.{name} exists already")
    columns, rows = statement.columns or (), None
    if statement.source is not None:
        text = Text(work.parsed.sql).add(statement.source)
        rows = (await answer(work, text)).rows
        columns = tuple(pa.field(each.name, offered_type(each.type)) for each in rows.schema)
    table_id = work.engine.clock.new_id()
    spec = spec_of(statement, columns, table_id)
    location = location_of(work.engine.lake, space, name, table_id)
    shard = await shard_of(work.engine.kv, table_id)
    managed = Managed(spec, {0: spec.schema}, shard)
    entry = TableEntry(space, name, table_id, statement.format, location, work.engine.clock.now_ms(), {}, managed)
    files: list[DataFile] = []
    if rows is not None:
        fitted = fit_table(rows.columns, spec.schema, rows.num_rows)
        check_partition_values(entry, fitted)
        if spec.primary_key:
            check_unique(fitted, spec.primary_key)
        files = await write_files(
            work.stores, work.engine.clock, location, spec.schema, spec, fitted,
            table_format="iceberg" if statement.format == "iceberg" else "delta",
            progress=lambda n_done: work.tell(n_done, fitted.num_rows, "rows written"),
        )  # fmt: skip
    made = await catalog_create(
        entry, work.stores, work.engine.tables, work.engine.clock,
        files=tuple(files), facts=work.facts, if_not_exists=statement.if_not_exists,
    )  # fmt: skip
    if made is None:
        return Outcome(f"table {space}.{name} exists already")
    n_rows = sum(each.n_rows for each in files)
    told = f" with {n_rows} rows" if rows is not None else ""
    return Outcome(f"created table {space}.{name}{told}", n_rows)


def location_of(lake: str, namespace: str, name: str, table_id: str) -> str:
    """Return the folder of a new table. It is never used again, so a table that is made anew finds no old files."""
    return join(normalize(lake), "tables", _plain(namespace), f"{_plain(name)}-{table_id[:8]}")


def _plain(name: str) -> str:
    """Return the name as part of a path that every store and reader takes."""
    kept = "".join(each if each.isalnum() or each in "_-" else "_" for each in name)
    return kept.encode()[:80].decode(errors="ignore") or "_"


async def _made_before(work: Work, statement: CreateTable) -> bool:
    try:
        entry = await work.engine.tables.get(*statement.table)
    except NotFoundError:
        return False
    return entry.managed is not None and await committed_before(work, entry)


async def _exists(work: Work, statement: CreateTable) -> bool:
    """Look before the work, too: a query may take long. The catalog decides in the end."""
    space, name = statement.table
    try:
        await work.engine.tables.get(space, name)
    except NotFoundError:
        if space not in await work.engine.tables.namespaces():
            raise NotFoundError("no such namespace; CREATE SCHEMA makes one", namespace=space) from None
        return False
    if not statement.if_not_exists:
        raise ConflictError("the table exists already", table=f"{space}.{name}")
    return True
