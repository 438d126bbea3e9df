"""Keys of every type that Parquet files of others have, with each kind of index and without one."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from service.found import found_of
from service.statement import KeyLookup, Route, Statement
from storage.errors import InvalidError, UnsupportedError
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio

N = 12_000
FLOATS: list[float | None] = [each / 2 - 100 for each in range(N)]
FLOATS[5:8] = [float("nan"), None, -0.0]
COLUMNS = {
    "f": pa.array(FLOATS),
    "f32": pa.array([each / 10 for each in range(N)], pa.float32()),
    "ls": pa.array([f"s{each}" for each in range(N)], pa.large_string()),
    "ns": pa.array([each * 1000 for each in range(N)], pa.timestamp("ns")),
    "ms": pa.array(range(N), pa.timestamp("ms")),
    "fb": pa.array([uuid.UUID(int=each).bytes for each in range(N)], pa.binary(16)),
    "dc": pa.array([f"c{each % 4000}" for each in range(N)]).dictionary_encode(),
    "u": pa.array([2**64 - 1 - each for each in range(N)], pa.uint64()),
    "u32": pa.array(range(N), pa.uint32()),
    "dec": pa.array([Decimal(each) / 4 for each in range(N)], pa.decimal128(18, 2)),
    "b": pa.array([each % 2 == 0 for each in range(N)]),
    "n": pa.array(range(N), pa.int64()),
}
ASKED: dict[str, tuple[list[Any], list[list[int]]]] = {
    "f": ([0.0, -0.0, 1.5, 1e9], [[7, 200], [7, 200], [203], []]),
    "f32": ([0.1, 2.5, 0.25], [[1], [25], []]),
    "ls": (["s7", "s007"], [[7], []]),
    "ns": (["1970-01-01T00:00:00.000005", "1970-01-02"], [[5], []]),
    "ms": (["1970-01-01T00:00:00.007"], [[7]]),
    "fb": ([str(uuid.UUID(int=77)), str(uuid.UUID(int=N))], [[77], []]),
    "dc": (["c3", "x"], [[3, 4003, 8003], []]),
    "u": ([2**64 - 8, 7], [[7], []]),
    "u32": ([9, N], [[9], []]),
    "dec": (["0.25", "0.26", 7], [[1], [], [28]]),
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def lake(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path_factory.mktemp("lake")) as lake:
        lake.write("files/a.parquet", pa.table(COLUMNS), row_group_size=5_000)
        lake.write("files/b.parquet", pa.table(COLUMNS).slice(0, 0))
        await lake.table(f"CREATE EXTERNAL TABLE p STORED AS PARQUET LOCATION '{lake.folder / 'files'}'")
        yield lake


async def look(lake: Lake, by: str, keys: list[Any], route: Route) -> tuple[list[int], list[bool]]:
    asked = KeyLookup(("default", "p"), keys, (by,), ("n",))
    result = await lake.engine.run(Statement("", lake.engine.clock.new_id(), route=route, lookup=asked))
    rows = [value async for batch in result.batches for value in batch.column(0).to_pylist()]
    return rows, found_of(result.schema, len(keys)).tolist()


@pytest.mark.parametrize("by", list(ASKED))
async def test_keys_of_every_type_are_found_with_and_without_an_index(lake: Lake, by: str) -> None:
    keys, expected = ASKED[by]
    for kind in ("", "locator", "learned"):
        try:
            if kind:
                await lake.table(f"CREATE INDEX {by}_{kind} ON p ({by}) USING {kind}")
        except (UnsupportedError, InvalidError):
            continue  # the type cannot be in an index, or is not sorted
        routes: tuple[Route, ...] = ("auto", "scan")
        for route in routes:
            rows, found = await look(lake, by, keys, route)
            assert found == [bool(each) for each in expected]
            start = 0
            for each in expected:
                assert sorted(rows[start : start + len(each)]) == each, (kind, route)
                start += len(each)
            assert start == len(rows)
        if kind:
            await lake.table(f"DROP INDEX {by}_{kind} ON p")


N_VIEWS = 1_000
VIEWS = pa.table(
    {
        "k": pa.array([f"k{each % 100}" for each in range(N_VIEWS)], pa.string_view()),
        "b": pa.array([b"%d" % (each % 100) for each in range(N_VIEWS)], pa.binary_view()),
        "l": pa.array([[str(each)] for each in range(N_VIEWS)], pa.list_(pa.string_view())),
        "s": pa.array([{"a": str(each)} for each in range(N_VIEWS)], pa.struct([("a", pa.string_view())])),
        "n": range(N_VIEWS),
    }
)


@pytest.mark.parametrize("key", ["k", "b"])
async def test_columns_that_were_views_when_they_were_written_are_found(lake: Lake, key: str) -> None:
    location = lake.write(f"views_{key}/a.parquet", VIEWS)
    await lake.table(f"CREATE EXTERNAL TABLE v{key} STORED AS PARQUET LOCATION '{Path(location).parent}'")
    seven = "'k7'" if key == "k" else "X'37'"
    wanted = f"SELECT n, l, s FROM v{key} WHERE {key} = {seven} ORDER BY n"
    scanned = await lake.rows(wanted)
    assert scanned == [(each, [str(each)], {"a": str(each)}) for each in range(7, N_VIEWS, 100)]
    await lake.table(f"CREATE INDEX by_{key} ON v{key} ({key}) USING locator")
    assert await lake.rows(wanted) == scanned
    asked = KeyLookup(("default", f"v{key}"), ["k9", "k8"] if key == "k" else ["OQ==", "OA=="], (key,), None)
    routes: tuple[Route, ...] = ("lookup", "scan")
    for route in routes:
        result = await lake.engine.run(Statement("", lake.engine.clock.new_id(), route=route, lookup=asked))
        found = [value async for batch in result.batches for value in batch.column("n").to_pylist()]
        assert found == [*range(9, N_VIEWS, 100), *range(8, N_VIEWS, 100)]


async def test_types_that_are_no_keys_are_refused_by_name(lake: Lake) -> None:
    with pytest.raises(UnsupportedError, match="not found by a column of this type"):
        await look(lake, "b", [True], "auto")
    for by, key in (("f", "NaN"), ("fb", "no uuid"), ("ms", "1970-01-01T00:00:00.0000001"), ("u", -1), ("f", None)):
        with pytest.raises(InvalidError):
            await look(lake, by, [key], "auto")


async def test_a_file_that_is_replaced_behind_its_index_is_scanned(lake: Lake, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    lake.write(str(folder / "a.parquet"), pa.table({"n": range(N)}), row_group_size=5_000)
    await lake.table(f"CREATE EXTERNAL TABLE q STORED AS PARQUET LOCATION '{folder}'")
    await lake.table("CREATE INDEX by_n ON q (n) USING locator")
    assert await lake.rows("SELECT n FROM q WHERE n = 5") == [(5,)]
    lake.write(str(folder / "a.parquet"), pa.table({"n": range(N - 1, -1, -1)}), row_group_size=5_000)
    for key in (5, 100, N - 1):
        assert await lake.rows(f"SELECT n FROM q WHERE n = {key}") == [(key,)]
