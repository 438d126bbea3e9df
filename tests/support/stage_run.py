"""Runs a statement in stages, each task by itself from its plan's bytes alone; in this process or in others."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
from datafusion import ExecutionPlan, SessionConfig, SessionContext

from functions.stages import DISTRIBUTED_OPTIONS, Piece, Stage, Stages, bind, split

__all__ = ["assert_same", "context_of", "plan_of", "run", "run_in_processes"]

Buckets = dict[int, list[pa.RecordBatch]]


def context_of(n_tasks: int, options: Mapping[str, str] | None = None) -> SessionContext:
    """Return a session that plans for so many tasks."""
    context = SessionContext(SessionConfig().with_target_partitions(n_tasks))
    for name, value in {**DISTRIBUTED_OPTIONS, **(options or {})}.items():
        context.sql(f"SET {name} = {value}")
    return context


def plan_of(context: SessionContext, sql: str) -> ExecutionPlan:
    return context.sql(sql).execution_plan()


def run(context: SessionContext, sql: str) -> tuple[pa.Table, Stages]:
    """Return a statement's rows and its stages, run one task after another by workers that know nothing."""
    stages = split(context, plan_of(context, sql))
    worker = SessionContext()
    outputs: list[list[Buckets]] = []
    for stage in stages.stages:
        outputs.append([_run(worker, stage, each, outputs) for each in pieces(stage)])
    return _answer(stages, outputs), stages


def pieces(stage: Stage) -> list[Piece]:
    return [stage.piece(partition) for partition in range(stage.n_partitions)]


def run_in_processes(context: SessionContext, sql: str) -> pa.Table:
    """Return a statement's rows; each task gets bytes from a process that ends after it, and gives bytes back."""
    stages = split(context, plan_of(context, sql))
    outputs: list[list[Buckets]] = []
    for stage in stages.stages:
        done = []
        for piece in pieces(stage):
            inputs = {name: {k: _to_text(each) for k, each in parts.items()} for name, parts in
                      _inputs(piece, outputs).items()}  # fmt: skip
            task = json.dumps({"plan": base64.b64encode(piece.plan).decode(), "inputs": inputs})
            command = [sys.executable, "-m", "tests.support.stage_run"]
            ended = subprocess.run(command, input=task.encode(), stdout=subprocess.PIPE, check=True, timeout=60)
            done.append({k: _from_text(each) for k, each in enumerate(json.loads(ended.stdout))})
        outputs.append(done)
    return _answer(stages, outputs)


def _answer(stages: Stages, outputs: list[list[Buckets]]) -> pa.Table:
    [last] = outputs[-1]
    schema = stages.stages[-1].schema
    batches = [_named(batch, schema) for batches in last.values() for batch in batches]
    return pa.Table.from_batches(batches, schema=schema if len(schema) else None)


def _run(context: SessionContext, stage: Stage, piece: Piece, outputs: list[list[Buckets]]) -> Buckets:
    plan = bind(context, piece.plan, _inputs(piece, outputs))
    assert plan.partition_count == stage.exchange.n_buckets
    return asyncio.run(_drained(context, plan))


async def _drained(context: SessionContext, plan: ExecutionPlan) -> Buckets:
    async def one(partition: int) -> list[pa.RecordBatch]:
        return [batch.to_pyarrow() async for batch in context.execute(plan, partition)]

    return dict(enumerate(await asyncio.gather(*map(one, range(plan.partition_count)))))


def _inputs(piece: Piece, outputs: list[list[Buckets]]) -> dict[str, dict[int, list[pa.RecordBatch]]]:
    found: dict[str, dict[int, list[pa.RecordBatch]]] = {}
    for read in piece.reads:
        parts: dict[int, list[pa.RecordBatch]] = {}
        for task, buckets in enumerate(outputs[read.stage]):
            for bucket, batches in buckets.items():
                if read.bucket is None or read.bucket == bucket:
                    parts.setdefault(task if read.apart else 0, []).extend(batches)
        found[read.name] = parts
    return found


def _named(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(batch.columns, schema=schema) if len(schema) else batch


def assert_same(got: pa.Table, wanted: pa.Table, *, ordered: bool = False) -> None:
    """Compare rows: decimals exactly, floats to 1e-9, in any order unless ``ordered``."""
    assert got.schema.names == wanted.schema.names
    assert [f.type for f in got.schema] == [f.type for f in wanted.schema]
    left, right = ([tuple(_plain(v) for v in row.values()) for row in t.rename_columns(
        [str(i) for i in range(t.num_columns)]).to_pylist()] for t in (got, wanted))  # fmt: skip
    if not ordered:
        left, right = sorted(left, key=_key), sorted(right, key=_key)
    assert len(left) == len(right), f"{len(left)} rows, not {len(right)}"
    for mine, other in zip(left, right, strict=True):
        assert all(map(_equal, mine, other)), f"{mine} is not {other}"


def _plain(value: Any) -> Any:
    return json.dumps(value, sort_keys=True, default=str) if isinstance(value, dict | list) else value


def _key(row: tuple[Any, ...]) -> str:
    return repr([f"{v:.6e}" if isinstance(v, float) else v for v in row])


def _equal(mine: Any, other: Any) -> bool:
    if isinstance(mine, float) and isinstance(other, float):
        both_nan = math.isnan(mine) and math.isnan(other)
        return both_nan or math.isclose(mine, other, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(mine, Decimal):
        return bool(mine == other and isinstance(other, Decimal))
    return bool(mine == other)


def _to_text(batches: Sequence[pa.RecordBatch]) -> str:
    if not batches:
        return ""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return base64.b64encode(sink.getvalue().to_pybytes()).decode()


def _from_text(text: str) -> list[pa.RecordBatch]:
    return list(pa.ipc.open_stream(base64.b64decode(text))) if text else []


def main() -> None:
    """Run one task from standard input."""
    task = json.load(sys.stdin)
    context = SessionContext()
    inputs = {name: {int(k): _from_text(each) for k, each in parts.items()} for name, parts in task["inputs"].items()}
    plan = bind(context, base64.b64decode(task["plan"]), inputs)
    buckets = asyncio.run(_drained(context, plan))
    json.dump([_to_text(each) for each in buckets.values()], sys.stdout)
    sys.stdout.flush()
    # The engine's threads may still hold Python objects; an interpreter that ends at that moment aborts.
    os._exit(0)


if __name__ == "__main__":
    main()
