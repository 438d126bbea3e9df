"""The change data feed: what commits and the log did to a table, against what was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.statement import Limits
from storage.errors import InvalidError, LimitError, NotFoundError, SqlError, UnsupportedError
from tests.support.lakes import Lake, open_lake
from tests.support.managed import append, delete, fold, make_table

pytestmark = pytest.mark.anyio
PLAIN = pa.schema([pa.field("k", pa.int64(), False), pa.field("v", pa.string())])
FORMATS = ["delta", "iceberg"]


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake", create=True) as opened:
        yield opened


async def changes(lake: Lake, start: int, limit: int | None = None) -> list[tuple[Any, ...]]:
    last = "" if limit is None else f", {limit}"
    return await lake.rows(
        f"SELECT k, v, _change_type, _commit_version IS NULL FROM table_changes('t', {start}{last}) ORDER BY 4, 1, 3, 2"
    )


@pytest.mark.parametrize("format_", FORMATS)
async def test_commits_that_add_are_insertions_and_rows_of_the_log_have_no_version(lake: Lake, format_: str) -> None:
    entry = await make_table(lake, "t", PLAIN, format_)
    await append(lake, entry, {"k": [1, 1], "v": ["a", "a"]})
    await fold(lake)
    await lake.rows("SELECT * FROM t")
    first = lake.receipt.snapshots["default.t"]
    await append(lake, entry, {"k": [2], "v": [None]})
    assert await changes(lake, first) == [
        (1, "a", "insert", False), (1, "a", "insert", False), (2, None, "insert", True),
    ]  # fmt: skip
    assert await changes(lake, first, first) == [(1, "a", "insert", False)] * 2
    assert await changes(lake, 0) == await changes(lake, first)
    await fold(lake)
    assert [row[3] for row in await changes(lake, first)] == [False, False, False]
    kinds = await lake.rows(
        "SELECT count(DISTINCT _commit_version), min(arrow_typeof(_commit_timestamp)) FROM table_changes('t', 0)"
    )
    assert kinds == [(2, 'Timestamp(µs, "UTC")')]


@pytest.mark.parametrize("format_", FORMATS)
async def test_updates_of_a_keyed_table_have_both_sides(lake: Lake, format_: str) -> None:
    entry = await make_table(lake, "t", PLAIN, format_, key=["k"])
    await append(lake, entry, {"k": [1, 2, 3], "v": ["a", "b", "c"]})
    await fold(lake)
    await append(lake, entry, {"k": [2, 3, 4], "v": ["bb", "c", "d"]})
    await delete(lake, entry, {"k": [1, 9]})
    expected = [
        (1, "a", "delete"), (2, "bb", "update_postimage"), (2, "b", "update_preimage"), (4, "d", "insert"),
    ]  # fmt: skip
    await lake.rows("SELECT * FROM t")
    first = lake.receipt.snapshots["default.t"]
    found = await changes(lake, first)
    assert [row[:3] for row in found if row[3]] == expected
    await fold(lake)
    await lake.rows("SELECT * FROM t")
    second = lake.receipt.snapshots["default.t"]
    assert [row[:3] for row in await changes(lake, second, second)] == expected
    assert [row[:3] for row in await changes(lake, second)] == expected


async def test_merging_small_files_changes_nothing_and_an_outside_writer_is_seen(lake: Lake) -> None:
    entry = await make_table(lake, "t", PLAIN)
    for number in range(3):
        await append(lake, entry, {"k": [number], "v": ["a"]})
        await fold(lake)
    table = deltalake.DeltaTable(entry.location.removeprefix("file://"))
    table.optimize.compact()
    table.delete("k = 1")
    table.update(updates={"v": "'z'"}, predicate="k = 2")
    assert [row[:3] for row in await changes(lake, 4)] == [(1, "a", "delete"), (2, "a", "delete"), (2, "z", "insert")]


async def test_changes_are_read_under_the_schema_of_the_last_version(lake: Lake, tmp_path: Path) -> None:
    where = str(tmp_path / "outside")
    deltalake.write_deltalake(where, pa.table({"k": [1], "p": ["x"]}), partition_by=["p"])
    deltalake.write_deltalake(where, pa.table({"k": [2], "p": ["y"], "w": [1.5]}), mode="append", schema_mode="merge")
    await lake.rows(f"CREATE EXTERNAL TABLE t STORED AS delta LOCATION '{where}'")
    assert await lake.rows("SELECT k, p, w, _commit_version FROM table_changes('default.t', 0) ORDER BY k") == [
        (1, "x", None, 0), (2, "y", 1.5, 1),
    ]  # fmt: skip


async def test_what_cannot_be_answered_is_said(lake: Lake, tmp_path: Path) -> None:
    entry = await make_table(lake, "t", PLAIN)
    await append(lake, entry, {"k": [1], "v": ["a" * 1000]})
    await fold(lake)
    with pytest.raises(NotFoundError, match="last_version=1"):
        await changes(lake, 2)
    with pytest.raises(NotFoundError, match="no such table"):
        await lake.rows("SELECT * FROM table_changes('nothing', 0)")
    with pytest.raises(SqlError, match="expected the first version"):
        await lake.rows("SELECT * FROM table_changes('t', 'x')")
    with pytest.raises(LimitError, match="ask for fewer versions"):
        await lake.table("SELECT * FROM table_changes('t', 0)", limits=Limits(scan_bytes_max=100))
    await lake.rows(f"CREATE EXTERNAL TABLE p STORED AS parquet LOCATION '{lake.write('p.parquet', {'x': [1]})}'")
    with pytest.raises(UnsupportedError, match="no versions"):
        await lake.rows("SELECT * FROM table_changes('p', 0)")
    await make_table(lake, "odd", pa.schema([pa.field("_change_type", pa.string())]))
    with pytest.raises(InvalidError, match="rename it column=_change_type"):
        await lake.rows("SELECT * FROM table_changes('odd', 0)")


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), st.dictionaries(st.integers(0, 8), st.integers(0, 2), min_size=1)),
        st.tuples(st.just("delete"), st.dictionaries(st.integers(0, 8), st.none(), min_size=1)),
        st.tuples(st.just("fold"), st.just({})),
    ),
    max_size=9,
)


@pytest.mark.parametrize("format_", FORMATS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_steps)
async def test_changes_applied_to_nothing_are_the_table(
    tmp_path_factory: pytest.TempPathFactory, format_: str, steps: list[tuple[str, dict[int, Any]]]
) -> None:
    async with open_lake(tmp_path_factory.mktemp("lake"), create=True) as lake:
        entry = await make_table(lake, "t", PLAIN, format_, key=["k"])
        truth: dict[int, str] = {}
        for step, values in steps:
            if step == "fold":
                await fold(lake)
            elif step == "upsert":
                await append(lake, entry, {"k": list(values), "v": [str(v) for v in values.values()]})
                truth |= {k: str(v) for k, v in values.items()}
            else:
                await delete(lake, entry, {"k": list(values)})
                truth = {k: v for k, v in truth.items() if k not in values}
        sums = Counter[tuple[int, str]]()
        for k, v, kind, _last in await changes(lake, 0):
            sums[k, v] += 1 if kind in ("insert", "update_postimage") else -1
        assert {pair: n for pair, n in sums.items() if n} == dict.fromkeys(truth.items(), 1)
