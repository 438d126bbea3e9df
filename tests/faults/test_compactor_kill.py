"""The real compactor killed at random while rows come in: none is lost, none is there twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from catalog.tables import Managed, TableEntry
from catalog.writers import create_table
from functions.append import append_rows
from functions.fold import load_managed
from functions.live_rows import live_rows
from service.compaction import Compaction, CompactionSettings, compact_lake, flush
from service.compactor import Compactor, compactor_process, open_compaction
from service.settings import EngineSettings
from storage.log import RecordKind
from storage.tables.write import TableSpec
from tests.support.folding import SCHEMA, Format, table_of

pytestmark = pytest.mark.anyio
APPEND, UPSERT, DELETE = RecordKind.APPEND, RecordKind.UPSERT, RecordKind.DELETE
FAST = CompactionSettings(interval_s=0.02, merge_files_min=3)
KEY = SCHEMA.empty_table().select(["id"]).schema


async def make(compaction: Compaction, name: str, format_: Format, key: tuple[str, ...] = ()) -> TableEntry:
    table_id = compaction.clock.new_id()
    spec = TableSpec(table_id, SCHEMA, 0, len(SCHEMA), key)
    location = f"file://{compaction.lake}/tables/default/{name}-{table_id[:8]}"
    entry = TableEntry("default", name, table_id, format_, location, 0, {}, Managed(spec, {0: SCHEMA}))
    created = await create_table(entry, compaction.stores, compaction.tables, compaction.clock)
    assert created is not None
    return created


async def rows_of(compaction: Compaction, entry: TableEntry) -> list[tuple[Any, ...]]:
    table = await load_managed(compaction.stores, compaction.tables, compaction.clock, entry)
    found: list[tuple[Any, ...]] = []
    for index in range(len(table.snapshot.files)):
        async for batch in live_rows(compaction.stores, table.snapshot, index):
            found += list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    return sorted(found, key=repr)


async def put(compaction: Compaction, entry: TableEntry, kind: RecordKind, rows: pa.Table) -> None:
    await append_rows(await compaction.logs.log(0), entry, rows, kind=kind)


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 — another process decides
            await asyncio.sleep(0.05)


async def test_a_compactor_that_is_killed_is_started_anew_and_folds_on(tmp_path: Path) -> None:
    settings = EngineSettings(lake=str(tmp_path))
    async with open_compaction(settings) as compaction:
        entry = await make(compaction, "t", "delta")
        async with compactor_process(settings, compaction, FAST) as compactor:
            for n in range(2):
                await put(compaction, entry, APPEND, table_of([(n, "x")]))

                async def folded(n: int = n) -> bool:
                    return len(await rows_of(compaction, entry)) == n + 1

                await eventually(folded)
                assert compactor.pid is not None
                pid = compactor.pid
                os.kill(pid, signal.SIGKILL)
                await eventually(lambda: _ended(compactor))
            await put(compaction, entry, APPEND, table_of([(2, "x")]))
            await eventually(lambda: _started(compactor, 3))
            pid = compactor.pid or 0
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert (await rows_of(compaction, entry))[:2] == [(0, "x"), (1, "x")]


async def _ended(compactor: Compactor) -> bool:
    return compactor.pid is None


async def _started(compactor: Compactor, times: int) -> bool:
    return compactor.n_starts == times and compactor.pid is not None


async def killer(compactor: Compactor, chance: random.Random, kills: int) -> int:
    done = 0
    while done < kills:
        await asyncio.sleep(chance.uniform(0.3, 1.0))
        if compactor.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(compactor.pid, signal.SIGKILL)
            done += 1
            # The pauses between starts are for crashes that have a cause.
            await asyncio.sleep(0.1)
    return done


@pytest.mark.parametrize("seed", [1, 2])
async def test_kills_at_random_lose_and_double_nothing(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    settings = EngineSettings(lake=str(tmp_path))
    async with open_compaction(settings) as compaction:
        lists: dict[str, list[tuple[Any, ...]]] = {}
        dicts: dict[str, dict[int, str]] = {}
        entries = {}
        for format_ in ("delta", "iceberg"):
            entries[f"{format_}_list"] = await make(compaction, f"{format_}_list", format_)
            entries[f"{format_}_dict"] = await make(compaction, f"{format_}_dict", format_, ("id",))
            lists[f"{format_}_list"], dicts[f"{format_}_dict"] = [], {}
        async with compactor_process(settings, compaction, FAST) as compactor:
            killing = asyncio.create_task(killer(compactor, chance, 4))
            n = 0
            while not killing.done():
                n += 1
                for name, model in lists.items():
                    await put(compaction, entries[name], APPEND, table_of([(n, name)]))
                    model.append((n, name))
                for name, known in dicts.items():
                    key = chance.randrange(20)
                    if chance.random() < 0.3:
                        await put(compaction, entries[name], DELETE, table_of([(key,)], KEY))
                        known.pop(key, None)
                    else:
                        await put(compaction, entries[name], UPSERT, table_of([(key, str(n))]))
                        known[key] = str(n)
                await asyncio.sleep(0.01)
            assert await killing == 4
        await flush(compaction)
        report = await compact_lake(compaction)
        assert not report.errors
        for name, model in lists.items():
            assert await rows_of(compaction, entries[name]) == sorted(model, key=repr)
        for name, known in dicts.items():
            assert await rows_of(compaction, entries[name]) == sorted(known.items(), key=repr)
