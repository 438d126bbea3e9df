"""The corpus of SQL and answers, in process. Its answers were compared with DuckDB's where both know the function."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.lakes import Lake, open_lake
from tests.support.slt import create_tables, read_records, run_record, write_tables

pytestmark = pytest.mark.anyio

FILES = sorted(Path(__file__).parent.glob("*.slt"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slt") / "data"
    write_tables(folder)
    return folder


@pytest.fixture
async def lake(tmp_path: Path, data: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake") as opened:
        for sql in create_tables(data):
            await opened.rows(sql)
        yield opened


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_the_corpus_is_answered(lake: Lake, data: Path, path: Path) -> None:
    records = list(read_records(path))
    assert records
    for record in records:
        await run_record(record, lake.rows, data)


def test_the_corpus_is_not_small() -> None:
    assert sum(1 for path in FILES for _ in read_records(path)) > 150
