"""What a commit does about other writers' work, and about tables whose features bind a writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest

from storage.clock import SystemClock
from storage.errors import ConflictError, InvalidError, UnsupportedError
from storage.stores import Stores
from storage.tables.delta.commit import DeltaWriter
from storage.tables.snapshot import Snapshot
from storage.tables.write import Change, DataFile
from tests.support.clock import ManualClock
from tests.support.delta_build import TABLE, Lake, add, column, inline_vector, metadata, protocol, remove
from tests.support.delta_read import load_folder, local_stores, multiset, read_rows
from tests.support.delta_write import data_file, make_spec

pytestmark = pytest.mark.anyio

SCHEMA = pa.schema([("id", pa.int64())])
GOLDEN = Path(__file__).parent / "golden"


def rows(*numbers: int) -> pa.Table:
    return pa.table({"id": numbers}, SCHEMA)


class Shared:
    """A table in a folder, that we and deltalake write to."""

    def __init__(self, path: Path) -> None:
        self.path, self.stores = path, local_stores()
        self.writer = DeltaWriter(self.stores, f"file://{path}", SystemClock())
        self.n_files = 0

    async def file(self, *numbers: int) -> DataFile:
        self.n_files += 1
        return await data_file(self.stores, f"file://{self.path}", f"{self.n_files}.parquet", rows(*numbers))

    async def load(self) -> Snapshot:
        return await load_folder(self.path)

    async def insert(self, *numbers: int) -> DataFile:
        file = await self.file(*numbers)
        await self.writer.commit(await self.load(), Change("insert", (file,)))
        return file

    async def ids(self) -> list[int]:
        return sorted((await read_rows(self.stores, await self.load())).column("id").to_pylist())

    def theirs(self) -> deltalake.DeltaTable:
        return deltalake.DeltaTable(str(self.path))


async def shared(path: Path, **properties: str) -> Shared:
    table = Shared(path)
    await table.writer.create(make_spec(SCHEMA, properties=properties))
    return table


async def test_an_update_goes_through_beside_appends_of_another_writer(tmp_path: Path) -> None:
    table = await shared(tmp_path)
    old = await table.insert(1, 2)
    base = await table.load()
    deltalake.write_deltalake(str(tmp_path), rows(3), mode="append")
    new = await table.file(10, 2)
    done = await table.writer.commit(base, Change("update", (new,), (old.location,)))
    assert (done.version, done.attempts) == (3, 1)
    assert await table.ids() == [2, 3, 10]


@pytest.mark.parametrize("operation", ["delete", "update", "optimize", "overwrite", "restore"])
async def test_a_change_of_files_that_another_writer_replaced_is_a_conflict(operation: str, tmp_path: Path) -> None:
    table = await shared(tmp_path)
    old = await table.insert(1, 2)
    await table.insert(5)
    base = await table.load()
    match operation:
        case "delete":
            table.theirs().delete("id = 1")
        case "update":
            table.theirs().update(predicate="id = 1", updates={"id": "7"})
        case "optimize":
            table.theirs().optimize.compact()
        case "overwrite":
            deltalake.write_deltalake(str(tmp_path), rows(8), mode="overwrite")
        case "restore":
            table.theirs().restore(0)
    before = await table.ids()
    new = await table.file(10, 2)
    with pytest.raises(ConflictError, match="no longer part"):
        await table.writer.commit(base, Change("update", (new,), (old.location,)))
    assert await table.ids() == before
    await table.writer.commit(base, Change("insert", (await table.file(9),)))  # what replaces nothing is still true
    assert await table.ids() == sorted([*before, 9])


async def test_a_file_whose_deletion_vector_changed_is_a_conflict() -> None:
    lake = Lake()
    features = ["deletionVectors"]
    first, second = inline_vector([0]), inline_vector([0, 1])
    await lake.commit(0, protocol(3, 7, features), metadata(), add("a", vector=first), add("b%20c", vector=first))
    base = await lake.load()
    await lake.commit(1, remove("a", vector=first), add("a", vector=second))
    writer = DeltaWriter(lake.stores(), TABLE, lake.clock)
    with pytest.raises(ConflictError, match="rows of a file"):
        await writer.commit(base, Change("delete", (), (f"{TABLE}/a",)))
    await writer.commit(base, Change("delete", (), (f"{TABLE}/b c",)))
    assert list((await lake.load()).files.paths) == [f"{TABLE}/a"]
    written = (await lake.blobs.get(f"t/_delta_log/{2:020}.json"))[0].decode()
    assert '"path":"b%20c"' in written  # as its writer encoded it
    assert f'"pathOrInlineDv":"{first["pathOrInlineDv"]}"' in written.replace("\\\\", "\\")


async def test_a_table_made_anew_in_its_place_is_a_conflict() -> None:
    lake = Lake()
    await lake.commit(0, protocol(), metadata(), add("a"))
    base = await lake.load()
    await lake.commit(0, protocol(), metadata(table_id="another"))
    with pytest.raises(ConflictError, match="another delta table"):
        await DeltaWriter(lake.stores(), TABLE, lake.clock).commit(base, Change("truncate"))


async def test_a_stale_snapshot_does_not_bring_back_a_version_that_was_cleaned_up(tmp_path: Path) -> None:
    table = await shared(tmp_path, **{"delta.checkpointInterval": "5"})
    base = await table.load()
    for number in range(7):
        await table.insert(number)
    for version in range(5):
        (tmp_path / "_delta_log" / f"{version:020}.json").unlink()
    done = await table.writer.commit(base, Change("insert", (await table.file(9),)))
    assert done.version == 8
    assert await table.ids() == [*range(7), 9]


async def test_an_append_only_table_takes_appends_and_compaction_alone(tmp_path: Path) -> None:
    table = await shared(tmp_path, **{"delta.appendOnly": "true"})
    files = [await table.insert(1), await table.insert(2)]
    gone = tuple(file.location for file in files)
    with pytest.raises(UnsupportedError, match="only takes appends"):
        await table.writer.commit(await table.load(), Change("truncate", (), gone))
    merged = await table.file(1, 2)
    await table.writer.commit(await table.load(), Change("optimize", (merged,), gone, data_change=False))
    assert await table.ids() == [1, 2]
    table.theirs().vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert multiset(pa.table(table.theirs().to_pyarrow_table())) == multiset(rows(1, 2))


async def test_a_change_of_rows_is_refused_where_a_feed_of_changes_is_kept() -> None:
    lake = Lake()
    feed = {"delta.enableChangeDataFeed": "true"}
    await lake.commit(0, protocol(1, 4), metadata(configuration=feed), add("a"))
    base, stores = await lake.load(), lake.stores()
    writer = DeltaWriter(stores, TABLE, lake.clock)
    file = await data_file(stores, TABLE, "b", rows(1))
    with pytest.raises(UnsupportedError, match="change data feed"):
        await writer.commit(base, Change("update", (file,), (f"{TABLE}/a",)))
    await writer.commit(base, Change("insert", (file,)))
    await writer.commit(await lake.load(), Change("delete", (), (f"{TABLE}/a",)))
    assert list((await lake.load()).files.paths) == [f"{TABLE}/b"]


REFUSED: list[tuple[str, list[dict[str, Any]]]] = [
    ("rowTracking", [protocol(1, 7, ["rowTracking"]), metadata()]),
    ("icebergCompatV2", [protocol(2, 7, ["columnMapping", "icebergCompatV2"]), metadata()]),
    ("writer_version=8", [protocol(1, 8), metadata()]),
    ("checkConstraints", [protocol(1, 3), metadata(configuration={"delta.constraints.c": "id > 0"})]),
    ("generatedColumns", [protocol(1, 4), metadata(column("g", **{"delta.generationExpression": "1"}))]),
    ("identityColumns", [protocol(1, 6), metadata(column("i", **{"delta.identity.start": 1}))]),
    ("invariants", [protocol(1, 2), metadata(column("i", **{"delta.invariants": "{}"}))]),
    ("allowColumnDefaults", [protocol(1, 7, []), metadata(column("d", CURRENT_DEFAULT="1"))]),
]


@pytest.mark.parametrize(("feature", "actions"), REFUSED, ids=[name for name, _ in REFUSED])
async def test_a_duty_that_we_do_not_fulfil_is_refused_by_name(feature: str, actions: list[dict[str, Any]]) -> None:
    lake = Lake()
    if actions[0]["protocol"]["minReaderVersion"] < 3:
        actions[0]["protocol"].pop("readerFeatures", None)
    await lake.commit(0, *actions)
    base = await lake.load()
    with pytest.raises(UnsupportedError, match=feature):
        await DeltaWriter(lake.stores(), TABLE, lake.clock).commit(base, Change("truncate"))


async def test_in_commit_timestamps_grow_even_when_the_clock_goes_back() -> None:
    lake, properties = Lake(), {"delta.enableInCommitTimestamps": "true"}
    stores = lake.stores()
    made = await DeltaWriter(stores, TABLE, ManualClock(5_000)).create(make_spec(SCHEMA, properties=properties))
    assert made.timestamp_ms == 5_000
    times = []
    for number, now_ms in enumerate([4_000, 9_000, 9_000]):
        file = await data_file(stores, TABLE, f"{number}", rows(number))
        writer = DeltaWriter(stores, TABLE, ManualClock(now_ms, seed=number))
        times.append((await writer.commit(await lake.load(), Change("insert", (file,)))).timestamp_ms)
        assert (await lake.load()).timestamp_ms == times[-1]
    assert times == [5_001, 9_000, 9_001]
    assert (await lake.load(timestamp_ms=9_000)).version == 2


async def test_a_snapshot_of_another_format_is_refused() -> None:
    lake = Lake()
    await lake.commit(0, protocol(), metadata())
    base = await lake.load()
    other = Snapshot("parquet", TABLE, 0, 0, base.schema, base.files)
    with pytest.raises(InvalidError, match="not a snapshot of a delta table"):
        await DeltaWriter(lake.stores(), TABLE, lake.clock).commit(other, Change("truncate"))


async def test_the_bytes_of_a_commit_are_as_they_always_were() -> None:
    """A golden commit: whatever changes here changes what every table's log says."""
    lake = Lake()
    stores: Stores = lake.stores()
    spec = make_spec(SCHEMA, order_by=["id"], partition_by=[], properties={"note": "é"})
    file = await data_file(stores, TABLE, "a b.parquet", rows(3, 1))
    writer = DeltaWriter(stores, TABLE, lake.clock)
    await writer.create(spec, (file,), {"idempotency": "k1"})
    found = (await lake.blobs.get(f"t/_delta_log/{0:020}.json"))[0].decode()
    assert found == (GOLDEN / "commit_create.ndjson").read_text().replace("SIZE", str(file.size))
    await writer.commit(await lake.load(), Change("delete", (), (file.location,), facts={"why": "test"}))
    found = (await lake.blobs.get(f"t/_delta_log/{1:020}.json"))[0].decode()
    assert found == (GOLDEN / "commit_delete.ndjson").read_text().replace("SIZE", str(file.size))
