"""Managed tables in an open lake, for tests below the SQL that makes them: create, append, delete and fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from catalog.tables import Managed, TableEntry
from catalog.writers import create_table
from functions.append import append_rows, bare_schema
from functions.fold_log import fold_all
from storage.log import Receipt, RecordKind
from storage.stores import join, normalize
from tests.support.delta_write import make_spec
from tests.support.lakes import Lake

__all__ = ["append", "delete", "fold", "make_table"]


async def make_table(
    lake: Lake,
    name: str,
    schema: pa.Schema,
    format_: str = "delta",
    *,
    key: Sequence[str] = (),
    partition_by: Sequence[str] = (),
    properties: Mapping[str, str] | None = None,
) -> TableEntry:
    """Make an empty table in the default namespace."""
    engine = lake.engine
    table_id = engine.clock.new_id().replace("-", "")
    spec = make_spec(
        schema, primary_key=key, partition_by=partition_by, table_id=table_id, properties=dict(properties or {})
    )
    location = join(normalize(str(lake.folder)), "tables", "default", f"{name}-{table_id[:8]}")
    managed = Managed(spec, {spec.schema_id: spec.schema})
    entry = TableEntry("default", name, table_id, format_, location, engine.clock.now_ms(), managed=managed)
    made = await create_table(entry, engine.stores, engine.tables, engine.clock)
    assert made is not None
    return made


async def append(lake: Lake, entry: TableEntry, columns: Mapping[str, Any] | pa.Table) -> Receipt:
    """Append rows; on a table with a primary key, upsert them."""
    assert entry.managed is not None
    spec = entry.managed.spec
    rows = columns if isinstance(columns, pa.Table) else pa.table(dict(columns), schema=bare_schema(spec.schema))
    kind = RecordKind.UPSERT if spec.primary_key else RecordKind.APPEND
    return await append_rows(await lake.engine.logs.log(entry.managed.shard), entry, rows, kind=kind)


async def delete(lake: Lake, entry: TableEntry, columns: Mapping[str, Any]) -> Receipt:
    """Delete the rows of these keys."""
    assert entry.managed is not None
    bare = bare_schema(entry.managed.spec.schema)
    schema = pa.schema([bare.field(name) for name in entry.managed.spec.primary_key])
    log = await lake.engine.logs.log(entry.managed.shard)
    return await append_rows(log, entry, pa.table(dict(columns), schema=schema), kind=RecordKind.DELETE)


async def fold(lake: Lake) -> None:
    """Fold all that is acknowledged."""
    engine = lake.engine
    await (await engine.logs.log(0)).flush()
    await fold_all(engine.stores, engine.logs, engine.tables, engine.clock)
