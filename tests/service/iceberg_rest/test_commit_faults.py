"""Outside commits beside folds of ours, with lost replies: both are in the table, the watermark is whole."""

from __future__ import annotations

import asyncio

import pyarrow as pa
import pytest

from service.iceberg_rest.catalog import IcebergCatalog
from service.iceberg_rest.errors import CommitFailedError
from storage.errors import ConflictError, ForbiddenError, IndeterminateError, UnavailableError
from storage.tables.write import Change, Watermark
from tests.support.iceberg_write import IcebergTable, open_table
from tests.support.kv_faults import TwoCoinKV

pytestmark = pytest.mark.anyio

SCHEMA = pa.schema([pa.field("id", pa.int64(), False)])


def catalog_of(table: IcebergTable) -> IcebergCatalog:
    return IcebergCatalog(table.kv, table.tables, table.stores, table.clock, "file:///lake")


async def fold(table: IcebergTable, mark: int) -> None:
    snapshot = await table.snapshot()
    found = table.writer.watermark(snapshot, "0")
    if found < mark:
        file = await table.file([{"id": number} for number in range(found, mark)])
        await table.writer.commit(snapshot, Change("fold", (file,), watermark=Watermark("0", found, mark)))


@pytest.mark.parametrize("seed", range(6))
async def test_outside_commits_and_folds_at_once_lose_nothing(seed: int) -> None:
    table = await open_table(SCHEMA)
    told: set[str] = set()

    async def outsider(number: int) -> None:
        view = table.seen_through(kv=TwoCoinKV(table.kv, seed * 10 + number, p_lost=0.1, p_silent=0.1))
        for step in range(6):
            key = f"k{number}.{step}"
            body = {"updates": [{"action": "set-properties", "updates": {key: "1"}}]}
            try:
                await catalog_of(view).commit("default", "t", body)
                told.add(key)
            except (UnavailableError, IndeterminateError):
                continue

    async def folder() -> None:
        view = table.seen_through(kv=TwoCoinKV(table.kv, seed * 10 + 9, p_lost=0.1, p_silent=0.2))
        for mark in range(1, 9):
            for _ in range(40):
                try:
                    await fold(view, mark)
                    break
                except (ConflictError, UnavailableError, IndeterminateError):
                    view.known = None

    await asyncio.gather(outsider(0), outsider(1), folder())
    snapshot = await table.snapshot()
    assert told <= set(snapshot.properties)
    assert table.writer.watermark(snapshot, "0") == 8
    assert sorted(row["id"] for row in await table.rows()) == list(range(8))
    assert told


async def test_columns_of_an_outside_commit_and_the_pointer_are_one_transaction() -> None:
    table = await open_table(SCHEMA)
    catalog = catalog_of(table)
    schema = {
        "type": "struct", "schema-id": 1, "identifier-field-ids": [],
        "fields": [{"id": 1, "name": "number", "required": True, "type": "long"},
                   {"id": 2, "name": "more", "required": False, "type": "string"}],
    }  # fmt: skip
    body = {
        "requirements": [{"type": "assert-current-schema-id", "current-schema-id": 0}],
        "updates": [{"action": "add-schema", "schema": schema}, {"action": "set-current-schema", "schema-id": -1}],
    }
    await catalog.commit("default", "t", body)
    await table.source()
    assert table.entry.managed is not None
    assert table.schema.names == ["number", "more"]
    assert (table.entry.managed.spec.schema_id, sorted(table.entry.managed.schemas)) == (1, [0, 1])
    assert table.entry.managed.spec.table_id == table.entry.id
    with pytest.raises(CommitFailedError, match="requirement"):
        await catalog.commit("default", "t", body)
    with pytest.raises(ForbiddenError, match="kept by the catalog"):
        forged = {"firnline.log.0": "99"}
        await catalog.commit("default", "t", {"updates": [{"action": "set-properties", "updates": forged}]})


async def test_an_update_that_changes_nothing_writes_nothing() -> None:
    table = await open_table(SCHEMA)
    before = await table.source()
    found = await catalog_of(table).commit("default", "t", {"updates": []})
    assert found.metadata_location == before
    missing = {"updates": [{"action": "remove-properties", "removals": ["nothing"]}]}
    await catalog_of(table).commit("default", "t", missing)
    assert (await table.snapshot()).properties == {}
