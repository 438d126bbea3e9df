"""The corpus of SQL and answers: in process, over HTTP, and through the Lambda adapter. Its answers were compared with
DuckDB's where both know the function."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import AppSettings
from service.components import open_engine
from service.lambda_handler import lambda_handler
from service.server import ServeSettings
from service.settings import EngineSettings
from tests.support.events import event_of
from tests.support.http_app import app_over
from tests.support.lakes import Lake, open_lake
from tests.support.serving import serving
from tests.support.slt import Run, create_tables, read_records, run_record, write_tables

FILES = sorted(Path(__file__).parent.glob("*.slt"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slt") / "data"
    write_tables(folder)
    return folder


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake") as opened:
        yield opened


async def run_file(path: Path, run: Run, data: Path) -> None:
    for sql in create_tables(data):
        await run(sql)
    records = list(read_records(path))
    assert records
    for record in records:
        await run_record(record, run, data)


def rows_of(status: int, body: bytes) -> list[list[Any]]:
    """Return the rows of a JSON answer; raise what a problem document says."""
    answer = json.loads(body)
    if status != 200:
        raise RuntimeError(f"{answer['title']}: {answer['detail']}")
    rows: list[list[Any]] = answer["rows"]
    return rows


@pytest.mark.anyio
@each_file
async def test_the_corpus_is_answered_in_process(lake: Lake, data: Path, path: Path) -> None:
    await run_file(path, lake.rows, data)


@pytest.mark.anyio
@each_file
async def test_the_corpus_is_answered_over_http(tmp_path: Path, data: Path, path: Path) -> None:
    engine = EngineSettings(lake=str(tmp_path / "lake"), allow=(str(data),))
    with serving(ServeSettings(engine=engine, port=0)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:

            async def run(sql: str) -> list[list[Any]]:
                response = await client.post("/v1/sql", json={"sql": sql})
                return rows_of(response.status_code, response.content)

            await run_file(path, run, data)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The loop that the adapter takes for its own."""
    opened = asyncio.new_event_loop()
    asyncio.set_event_loop(opened)
    yield opened
    asyncio.set_event_loop(None)
    opened.run_until_complete(opened.shutdown_default_executor())
    opened.close()


@each_file
def test_the_corpus_is_answered_through_the_lambda_adapter(
    tmp_path: Path, data: Path, path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    opening = open_engine(EngineSettings(lake=str(tmp_path / "lake")))
    engine = loop.run_until_complete(opening.__aenter__())
    handler = lambda_handler(app_over(engine, settings=AppSettings(background=False)))

    def invoke(sql: str) -> list[list[Any]]:
        invoked = handler(event_of("POST", "/v1/sql", json.dumps({"sql": sql}).encode()), None)
        return rows_of(invoked["statusCode"], invoked["body"].encode())

    try:
        for sql in create_tables(data):
            invoke(sql)
        for record in read_records(path):
            _drive(run_record(record, _now(invoke), data))
    finally:
        loop.run_until_complete(opening.__aexit__(None, None, None))


def _now(invoke: Any) -> Run:
    """Give a plain call the form of a coroutine that never waits."""

    async def run(sql: str) -> list[list[Any]]:
        rows: list[list[Any]] = invoke(sql)
        return rows

    return run


def _drive(coroutine: Any) -> None:
    """Run a coroutine that never waits, outside of any loop: the adapter brings its own."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


def test_the_corpus_is_not_small() -> None:
    assert sum(1 for path in FILES for _ in read_records(path)) > 150
