"""Statements over a folder of Parquet files, cut into stages: what tests of workers make tasks of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datafusion import SessionContext

from functions.exchange import results_prefix
from functions.stages import DISTRIBUTED_OPTIONS, Stages, split
from functions.tasks import Task
from storage.clock import SystemClock

__all__ = ["ENDLESS", "STUBBORN", "context_over", "stages_of", "task_of"]

ENDLESS = "SELECT sum(value) FROM generate_series(1, 100000000000000)"
"""Runs for ever, and stops when it is told to."""
STUBBORN = "SELECT count(*) FROM t a, t b, t c WHERE a.k + b.k > c.k"
"""Runs for a minute over a table of 3,000 rows, and does not stop when it is told to."""


def context_over(folder: Path, n: int = 3) -> SessionContext:
    """Return an engine that knows the folder's files, ``t-1.parquet`` and ``t-2.parquet`` as the table ``t``."""
    context = SessionContext()
    for name, value in {**DISTRIBUTED_OPTIONS, "datafusion.execution.target_partitions": str(n)}.items():
        context.sql(f"SET {name} = '{value}'")
    context.sql("SET datafusion.execution.parquet.schema_force_view_types = false")
    for path in sorted(folder.glob("*.parquet")):
        name = path.name.split(".")[0].split("-")[0]
        if not context.catalog().schema().table_exist(name):
            listed = ", ".join(f"'{each}'" for each in sorted(folder.glob(f"{name}*.parquet")))
            context.sql(f"CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION ({listed})")
    return context


def stages_of(folder: Path, sql: str, n: int = 3) -> Stages:
    """Return the stages of a statement over the folder."""
    context = context_over(folder, n)
    return split(context, context.sql(sql).execution_plan())


def task_of(folder: Path, **changes: Any) -> Task:
    """Return a task of a lake in the folder that has a minute's time."""
    deadline_ms = SystemClock().now_ms() + 60_000
    given: dict[str, Any] = {
        "kind": "query", "statement_id": "s1", "id": "0.0", "body": {}, "deadline_ms": deadline_ms,
        "results": results_prefix(str(folder), "s1", deadline_ms),
    }  # fmt: skip
    return Task(**(given | changes))
