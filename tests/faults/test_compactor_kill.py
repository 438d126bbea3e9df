"""The real compactor killed at random while rows come in: none is lost, none is there twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from service.compaction import CompactionSettings, compact_lake, flush
from service.compactor import Compactor, compactor_process, open_compaction
from service.settings import EngineSettings
from storage.log import RecordKind
from tests.support.compacting import eventually, make, put, rows_of
from tests.support.folding import SCHEMA, table_of

pytestmark = pytest.mark.anyio
APPEND, UPSERT, DELETE = RecordKind.APPEND, RecordKind.UPSERT, RecordKind.DELETE
FAST = CompactionSettings(interval_s=0.02, merge_files_min=3)
KEY = SCHEMA.empty_table().select(["id"]).schema


async def test_a_compactor_that_is_killed_is_started_anew_and_folds_on(tmp_path: Path) -> None:
    settings = EngineSettings(lake=str(tmp_path))
    async with open_compaction(settings) as compaction:
        entry = await make(compaction, "t", "delta")
        async with compactor_process(settings, compaction, FAST) as compactor:
            await put(compaction, entry, APPEND, table_of([(0, "x")]))

            async def folded() -> bool:
                return len(await rows_of(compaction, entry)) == 1

            await eventually(folded)
            pid = compactor.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: _ended(compactor))
            await put(compaction, entry, APPEND, table_of([(2, "x")]))
            await eventually(lambda: _started(compactor, 2))
            pid = compactor.pid or 0
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert (await rows_of(compaction, entry))[:1] == [(0, "x")]


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
