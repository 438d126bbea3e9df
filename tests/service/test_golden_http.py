"""Every table that other engines wrote, asked for over HTTP: the rows it must read as, or a refusal by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.server import ServeSettings
from service.settings import EngineSettings
from storage.blobs.local import LocalBlobs
from storage.blobs.open import open_blobs
from storage.clock import SystemClock
from tests.conftest import GOLDEN
from tests.support.moto import create_bucket, moto_options, start_moto
from tests.support.rows import multiset
from tests.support.serving import serving

pytestmark = [pytest.mark.golden, pytest.mark.anyio]

BUCKET = "firnline-testdata"
REFUSED = {
    "deltars_err__table_a": "NotFoundError",
    "deltars_err__table_c": "CorruptError",
    "deltars_err__table_d": "UnsupportedError",
    "deltars_err__table_e": "UnsupportedError",
    "golden__canonicalized-paths-normal-b": "UnsupportedError",
    "golden__deltalog-invalid-protocol-version": "UnsupportedError",
    "golden__deltalog-state-reconstruction-from-checkpoint-missing-protocol": "CorruptError",
    "golden__deltalog-state-reconstruction-without-metadata": "CorruptError",
    "golden__log-replay-special-characters-b": "NotFoundError",
}
"""The whole list of `docs/refusals.md`; anything else must be read."""


def _cases(kind: str) -> list[Any]:
    path = GOLDEN / kind / "cases.json"
    return [pytest.param(case, id=case["id"]) for case in json.loads(path.read_text())] if path.is_file() else []


@pytest.fixture(scope="module")
def client(golden_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    lake = tmp_path_factory.mktemp("lake")
    with start_moto() as endpoint:
        create_bucket(endpoint, BUCKET)
        settings = EngineSettings(lake=str(lake), allow=(str(golden_dir), f"s3://{BUCKET}"), s3=moto_options(endpoint))
        with serving(ServeSettings(engine=settings, port=0)) as url, httpx.Client(base_url=url, timeout=60) as client:
            client.s3 = settings.s3  # type: ignore[attr-defined]
            yield client


def _ask(client: httpx.Client, sql: str) -> pa.Table:
    answer = client.post("/v1/sql", json={"sql": sql, "format": "arrow"})
    assert answer.status_code == 200, answer.text
    return pa.ipc.open_stream(answer.content).read_all()


def _rows(path: Path) -> pa.Table:
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    tables = [pq.ParquetFile(file, coerce_int96_timestamp_unit="us").read() for file in files]
    return pa.concat_tables(tables, promote_options="permissive")


def _assert_same(got: pa.Table, want: pa.Table) -> None:
    assert set(got.column_names) == set(want.column_names)
    assert multiset(got) == multiset(want)


def test_there_are_golden_tables(golden_dir: Path) -> None:
    assert len(_cases("delta")) >= 93 and len(_cases("iceberg")) >= 47


@pytest.mark.parametrize("case", _cases("delta"))
def test_a_delta_table_reads_right_or_is_refused_by_name(
    case: dict[str, Any], client: httpx.Client, golden_dir: Path
) -> None:
    folder = golden_dir / "delta" / case["id"]
    sql = f"SELECT * FROM delta('{folder / 'delta'}')"
    if case["id"] in REFUSED:
        answer = client.post("/v1/sql", json={"sql": sql})
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["title"] == REFUSED[case["id"]]
        assert str(folder) in answer.json()["detail"]
    elif case["expect"] == "consensus":
        _assert_same(_ask(client, sql), _rows(folder / "consensus" / "rows.parquet"))
    elif case["expect"] == "parquet":
        _assert_same(_ask(client, sql), _rows(folder / "expected"))
    else:
        assert case["expect"] == "dat"
        _assert_same(_ask(client, sql), _rows(folder / "expected" / "latest"))
        versions = sorted((folder / "expected").glob("v*"))
        assert versions
        for version in versions:
            travelled = _ask(client, f"{sql} FOR VERSION AS OF {version.name[1:]}")
            _assert_same(travelled, _rows(version))


@pytest.mark.parametrize("case", _cases("iceberg"))
async def test_an_iceberg_table_reads_right(case: dict[str, Any], client: httpx.Client, golden_dir: Path) -> None:
    folder = golden_dir / "iceberg" / case["id"]
    clock = SystemClock()
    source = LocalBlobs(str(folder), clock)
    bucket = open_blobs(f"s3://{BUCKET}", s3=client.s3, clock=clock)  # type: ignore[attr-defined]
    async for meta in source.list():
        data, _ = await source.get(meta.key)
        await bucket.put(f"iceberg/{case['id']}/{meta.key}", data)
    await bucket.close()
    location = f"s3://{BUCKET}/iceberg/{case['id']}/metadata/v9999.metadata.json"
    _assert_same(_ask(client, f"SELECT * FROM iceberg('{location}')"), _rows(folder / "consensus.parquet"))
