"""Tables that other engines wrote read as the rows that they must read as, or are refused by name."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
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
