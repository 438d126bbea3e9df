"""Jobs on one table as tasks: look-ups, segments of indexes and merged files, as a coordinator would commit them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from catalog.indexes import Indexes, SegmentRef
from catalog.tables import TableEntry
from functions.catalog_part import catalog_part
from functions.exchange import encode_page, read_pages
from functions.file_facts import decode_files
from functions.fold import load_managed
from functions.index.models import segment_location
from functions.task_worker import TaskWorkerSettings, open_task_runner
from functions.tasks import Reply, decode_reply, encode_task
from service.compaction import Compaction, CompactionSettings, compact_lake, flush
from storage.clock import SystemClock
from storage.errors import FirnlineError, from_wire
from storage.tables.write import Change
from tests.support.lakes import Lake, open_lake
from tests.support.task_plans import task_of

pytestmark = pytest.mark.anyio
SECRET = b"shared"
CLOCK = SystemClock()


class Bench:
    """A lake with a table of four files, and a worker."""

    def __init__(self, lake: Lake, entry: TableEntry, runner: Any) -> None:
        self.lake, self.entry, self.runner = lake, entry, runner
        self.engine = lake.engine

    async def files(self) -> list[str]:
        found = await load_managed(self.engine.stores, self.engine.tables, CLOCK, self.entry)
        return list(found.snapshot.files.paths)

    async def ask(self, kind: str, **body: Any) -> Reply:
        inputs = body.pop("inputs", {})
        common = {
            "catalog": await catalog_part(self.engine.kv, self.entry), "lake": str(self.lake.folder),
            "table": [self.entry.namespace, self.entry.name],
        }  # fmt: skip
        task = task_of(self.lake.folder, kind=kind, body=common | body, inputs=inputs)
        return decode_reply(await self.runner.run(encode_task(task, SECRET)), SECRET, task)

    async def error(self, kind: str, **body: Any) -> FirnlineError:
        reply = await self.ask(kind, **body)
        assert reply.error is not None
        return from_wire(dict(reply.error))

    async def rows(self, reply: Reply) -> pa.Table:
        assert reply.error is None, reply.error
        return pa.Table.from_batches([batch async for batch in read_pages(self.engine.stores, reply.pages)])


@asynccontextmanager
async def bench(folder: Path, format_: str) -> AsyncIterator[Bench]:
    async with open_lake(folder) as lake, open_task_runner(TaskWorkerSettings(str(folder), SECRET), CLOCK) as runner:
        await lake.table(f"CREATE TABLE t (k BIGINT NOT NULL, v VARCHAR, PRIMARY KEY (k)) USING {format_}")
        engine = lake.engine
        parts = Compaction(engine.stores, engine.logs, engine.tables, CLOCK, str(folder))
        for start in range(4):
            await lake.table(f"INSERT INTO t SELECT value * 4 + {start}, 'v' || value FROM generate_series(0, 499)")
            await flush(parts)
            await compact_lake(parts, CompactionSettings(merge_files_min=1000))
        await lake.table("CREATE INDEX by_k ON t (k)")
        yield Bench(lake, await engine.tables.get("default", "t"), runner)


@pytest.fixture(params=["delta", "iceberg"])
async def on(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path, request.param) as found:
        yield found


async def test_files_are_merged_by_a_worker_and_committed_by_who_asked(on: Bench) -> None:
    files = await on.files()
    assert len(files) == 4
    before = await on.lake.rows("SELECT k, v FROM t ORDER BY k")
    reply = await on.ask("compact", files=files[:3])
    [batch] = (await on.rows(reply)).to_batches()
    added = decode_files(batch)
    assert sum(file.n_rows for file in added) == 1500
    table = await load_managed(on.engine.stores, on.engine.tables, CLOCK, on.entry)
    change = Change("optimize", tuple(added), tuple(files[:3]), data_change=False)
    await table.writer.commit(table.snapshot, change)
    assert len(await on.files()) == 2
    assert await on.lake.rows("SELECT k, v FROM t ORDER BY k") == before
    found = await on.error("compact", files=["file:///elsewhere"])
    assert "moved on" in str(found)


async def test_a_segment_is_fitted_by_a_worker_and_keys_are_looked_up_by_another(on: Bench) -> None:
    [index] = await Indexes(on.engine.kv, CLOCK).of(on.entry.id)
    files = await on.files()
    reply = await on.ask("fit", index=index.name, files=files[:3])
    assert reply.error is None, reply.error
    assert reply.body["skipped"] == {}
    ref = SegmentRef(**reply.body["segment"])
    assert (ref.n_files, ref.n_keys, ref.inline) == (3, 1500, False)
    blobs, key = on.engine.stores.resolve(segment_location(str(on.lake.folder), on.entry.id, ref.id))
    assert (await blobs.head(key)).size == ref.n_bytes

    def alter(found: Any) -> Any:
        return replace(found, segments=(ref,))

    await Indexes(on.engine.kv, CLOCK).change(on.entry.id, index.name, alter)
    keys = encode_page(
        [pa.record_batch({"k": pa.array([5, 0, 1999, 7, 100_000], pa.int64())})], pa.schema([("k", pa.int64())])
    )
    found = await on.ask("lookup", index=index.name, columns=["k", "v"], inputs={"keys": [keys]})
    uncovered = set(found.body["uncovered"])
    assert uncovered == {files[3]}
    expected = []
    for path, start in zip(files, await firsts(on, files), strict=True):
        expected += [k for k in (5, 0, 1999, 7) if path not in uncovered and k % 4 == start]
    rows = (await on.rows(found)).to_pylist()
    assert sorted(row["k"] for row in rows) == sorted(expected)
    assert all(row["v"] == f"v{row['k'] // 4}" for row in rows)


async def firsts(on: Bench, files: list[str]) -> list[int]:
    """The keys' remainder by four that each file has."""
    found = []
    for path in files:
        found.append(await on.lake.value(f"SELECT min(k) % 4 FROM parquet('{path}')"))
    return found


async def test_a_job_that_lacks_something_says_what(tmp_path: Path) -> None:
    lacking: list[dict[str, Any]] = [
        {"catalog": None}, {"catalog": {"table/default/t": "?"}}, {"catalog": {}}, {"table": "t"},
        {"table": ["default", "u"]}, {"index": "none"}, {"lake": None},
    ]  # fmt: skip
    async with bench(tmp_path, "delta") as on:
        for body in lacking:
            found = await on.error("fit", **({"index": "by_k"} | body))
            assert type(found).__name__ in ("InvalidError", "NotFoundError")
