"""A lake in a temporary folder and an engine on it, for tests of whole statements in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from service.components import open_engine
from service.engine import Engine
from service.executor import InlineExecutor
from service.settings import EngineSettings
from service.statement import Limits, Receipt, Role, Statement

__all__ = ["Lake", "open_lake"]


@dataclass
class Lake:
    """An engine and its folder. ``receipt`` is that of the last statement."""

    engine: Engine
    folder: Path
    receipt: Receipt
    _count: int = 0

    async def table(
        self,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        role: Role = "admin",
        limits: Limits | None = None,
    ) -> pa.Table:
        """Run the statement to its end and return the answer."""
        self._count += 1
        statement = Statement(sql, f"s{self._count}", params, role, limits or Limits(timeout_ms=60_000))
        result = await InlineExecutor(self.engine, self.engine.clock).run(statement)
        batches = [batch async for batch in result.batches]
        self.receipt = result.receipt
        return pa.Table.from_batches(batches, result.schema)

    async def rows(self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run the statement and return its rows as tuples."""
        table = await self.table(sql, params)
        if not table.num_columns:
            return [()] * table.num_rows
        return list(zip(*[column.to_pylist() for column in table.columns], strict=True))

    async def value(self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """Run a statement whose answer is one value."""
        rows = await self.rows(sql, params)
        assert len(rows) == 1
        assert len(rows[0]) == 1
        return rows[0][0]

    def write(self, name: str, data: pa.Table | Mapping[str, Any], **options: Any) -> str:
        """Write a Parquet file below the lake and return its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        table = data if isinstance(data, pa.Table) else pa.table(dict(data))
        pq.write_table(table, path, **options)
        return str(path)


@asynccontextmanager
async def open_lake(folder: Path, **settings: Any) -> AsyncIterator[Lake]:
    """Open an engine on ``folder``; it may read everything unless ``allow`` is given."""
    async with open_engine(EngineSettings(lake=str(folder), **settings)) as engine:
        yield Lake(engine, folder, Receipt())
