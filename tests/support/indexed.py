"""Indexes of a lake's tables, made and brought in step as a compaction pass does."""

from __future__ import annotations

from collections.abc import Sequence

from catalog.indexes import IndexEntry, IndexKind
from functions.index.columns import index_columns
from functions.index.maintain import Maintenance, Refreshed, refresh
from tests.support.lakes import Lake

__all__ = ["add_index", "refresh_indexes"]


def _parts(lake: Lake) -> Maintenance:
    engine = lake.engine
    return Maintenance(engine.stores, engine.indexes, engine.models, engine.clock, engine.lake)


async def add_index(lake: Lake, table: str, columns: Sequence[str], kind: IndexKind, name: str = "by_key") -> Refreshed:
    """Make an index on a table of the default namespace, over all its files."""
    engine = lake.engine
    found = await engine.describe_table("default", table)
    assert found.entry is not None
    await engine.indexes.create(
        IndexEntry(found.entry.id, name, kind, index_columns(found.snapshot, columns), engine.clock.now_ms())
    )
    (entry,) = [each for each in await engine.indexes.of(found.entry.id) if each.name == name]
    return await refresh(_parts(lake), entry, found.snapshot)


async def refresh_indexes(lake: Lake, table: str) -> None:
    """Index the files that came since."""
    found = await lake.engine.describe_table("default", table)
    assert found.entry is not None
    for each in await lake.engine.indexes.of(found.entry.id):
        await refresh(_parts(lake), each, found.snapshot)
