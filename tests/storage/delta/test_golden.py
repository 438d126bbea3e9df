"""Tables that other engines wrote read as the rows that they must read as, or are refused by name."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from storage.errors import FirnlineError
from storage.tables.snapshot import At
from tests.conftest import GOLDEN
from tests.support.delta_read import load_folder, local_stores, multiset, read_rows

pytestmark = [pytest.mark.anyio, pytest.mark.golden]

_CASES_FILE = GOLDEN / "delta" / "cases.json"
CASES: list[dict[str, Any]] = json.loads(_CASES_FILE.read_text()) if _CASES_FILE.is_file() else []


def cases(*kinds: str) -> list[Any]:
    return [pytest.param(case, id=case["id"]) for case in CASES if case["expect"] in kinds]


async def rows_of(folder: Path, at: At = At()) -> pa.Table:  # noqa: B008
    return await read_rows(local_stores(), await load_folder(folder / "delta", at))


def expected_rows(folder: Path) -> pa.Table:
    files = [str(path) for path in sorted(folder.rglob("*.parquet"))]
    return ds.dataset(files, format="parquet").to_table()


def assert_same(found: pa.Table, expected: pa.Table) -> None:
    assert sorted(found.column_names) == sorted(expected.column_names)
    assert multiset(found) == multiset(expected.select(found.column_names))


@pytest.mark.parametrize("case", cases("parquet"))
async def test_a_table_reads_as_spark_wrote_it(case: dict[str, Any], golden_dir: Path) -> None:
    folder = golden_dir / "delta" / case["id"]
    assert_same(await rows_of(folder), expected_rows(folder / "expected"))


@pytest.mark.parametrize("case", cases("consensus"))
async def test_a_table_reads_as_independent_readers_agree(case: dict[str, Any], golden_dir: Path) -> None:
    folder = golden_dir / "delta" / case["id"]
    assert_same(await rows_of(folder), expected_rows(folder / "consensus"))


@pytest.mark.parametrize("case", cases("dat"))
async def test_every_version_of_a_table_reads_right(case: dict[str, Any], golden_dir: Path) -> None:
    folder = golden_dir / "delta" / case["id"]
    assert_same(await rows_of(folder), expected_rows(folder / "expected" / "latest"))
    for version in sorted((folder / "expected").glob("v*")):
        at = At(version=int(version.name[1:]))
        assert_same(await rows_of(folder, at), expected_rows(version))


@pytest.mark.parametrize("case", cases("error", "error_log"))
async def test_a_table_that_cannot_be_read_right_is_refused(case: dict[str, Any], golden_dir: Path) -> None:
    with pytest.raises(FirnlineError):
        await rows_of(golden_dir / "delta" / case["id"])


WRONG_STATISTICS = {"deltars__issue_1374"}
"""Tables whose log claims what does not hold: its second file has the statistics of its first."""


@pytest.mark.parametrize(
    "case", [one for one in cases("parquet", "consensus", "dat") if one.values[0]["id"] not in WRONG_STATISTICS]
)
async def test_statistics_never_exclude_a_row(case: dict[str, Any], golden_dir: Path) -> None:
    snapshot = await load_folder(golden_dir / "delta" / case["id"] / "delta")
    for index in range(len(snapshot.files)):
        rows = await read_rows(local_stores(), snapshot, only=index)
        for name in snapshot.schema.names:
            if stats := snapshot.files.stats(name):
                assert_within(rows.column(name), stats.minimum[index], stats.maximum[index], stats.null_count[index])


def assert_within(values: pa.ChunkedArray, low: pa.Scalar, high: pa.Scalar, nulls: pa.Scalar) -> None:
    if low.is_valid:
        assert pc.all(pc.greater_equal(values, low)).as_py() is not False
    if high.is_valid:
        assert pc.all(pc.less_equal(values, high)).as_py() is not False
    if nulls.is_valid:
        assert nulls.as_py() > 0 or values.null_count == 0
