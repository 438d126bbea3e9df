"""Files that are merged on read lie in an object store, and workers read them there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from service.components import open_engine
from service.engine import Engine
from service.executor import InlineExecutor
from service.settings import EngineSettings, FunctionAccess
from service.statement import Limits, Receipt, Statement
from tests.support.merged_tables import some_rows, write_delta
from tests.support.moto import create_bucket, moto_endpoint, moto_options
from tests.support.stage_run import assert_same

__all__ = ["moto_endpoint"]
pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BUCKET = "merge-tasks"


async def _ask(engine: Engine, sql: str, functions: Any) -> tuple[pa.Table, Receipt]:
    statement = Statement(sql, engine.clock.new_id(), limits=Limits(timeout_ms=90_000), functions=functions)
    result = await InlineExecutor(engine, engine.clock).run(statement)
    batches = [batch async for batch in result.batches]
    return pa.Table.from_batches(batches, result.schema), result.receipt


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_workers_merge_files_of_a_bucket_and_count_their_requests(moto_endpoint: str, tmp_path: Path) -> None:
    chance = np.random.default_rng(2)
    files = [(some_rows(chance, 300), list(range(0, 300, 7)) if number % 3 else []) for number in range(6)]
    stored = _files(Path(write_delta(tmp_path / "t", files)))
    create_bucket(moto_endpoint, BUCKET)
    settings = EngineSettings(
        lake=f"s3://{BUCKET}/lake", catalog="memory:", s3=moto_options(moto_endpoint),
        functions=FunctionAccess(place="processes:2"),
    )  # fmt: skip
    async with open_engine(settings) as engine:
        for name, data in stored.items():
            blobs, key = engine.stores.resolve(f"s3://{BUCKET}/t/{name}")
            await blobs.put(key, data)
        table = f"delta('s3://{BUCKET}/t')"
        for sql in (
            f"SELECT count(*) FROM {table}",
            f"SELECT g, count(*), sum(d) FROM {table} GROUP BY g",
            f"SELECT a.k, b.t FROM {table} a JOIN {table} b ON a.t = b.t AND a.d = b.d",
        ):
            wanted, alone = await _ask(engine, sql, "inline")
            got, receipt = await _ask(engine, sql, "fan-out")
            assert_same(got, wanted)
            assert receipt.slow_files == alone.slow_files == 4
            assert receipt.tasks >= 2
            # A footer and a row group's columns at least of each file that is merged.
            assert receipt.gets >= 8
        blobs, key = engine.stores.resolve(f"s3://{BUCKET}/lake/_firnline/results")
        assert [meta.key async for meta in blobs.list(key + "/")] == []
