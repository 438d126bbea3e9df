"""Plans run by settings of their own, whatever is planned meanwhile."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from functions.execute import stream
from functions.stages import DISTRIBUTED_OPTIONS
from tests.support.lakes import open_lake

pytestmark = pytest.mark.anyio

DYNAMIC = "datafusion.optimizer.enable_join_dynamic_filter_pushdown"


async def test_a_plan_that_runs_sees_nothing_of_how_another_is_made_to_be_cut(tmp_path: Path) -> None:
    """Half of a join's partitions would wait for the others to say which keys they have."""
    assert DISTRIBUTED_OPTIONS["datafusion.optimizer.enable_dynamic_filter_pushdown"] == "false"
    async with open_lake(tmp_path, memory_bytes=1 << 20) as lake:
        session = lake.engine._session
        asked = f"SELECT value FROM information_schema.df_settings WHERE name = '{DYNAMIC}'"
        session._set_cut(3, None)
        plan = session.context.sql(asked).execution_plan()
        for context, value in ((session.context, "false"), (session.running, "true")):
            batches = [batch async for batch in stream(context, plan)]
            assert pa.Table.from_batches(batches).to_pylist() == [{"value": value}]
        session._set_cut(0, None)
