"""Where paths are restricted, SQL reaches the lake and nothing else, by whatever way it is asked."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import FirnlineError, ForbiddenError, UnsupportedError
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio

SECRET = 987_654_321


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    folder = tmp_path / "lake-secret"
    folder.mkdir()
    pq.write_table(pa.table({"x": [SECRET]}), folder / "x.parquet")
    (folder / "x.csv").write_text(f"x\n{SECRET}\n")
    deltalake.write_deltalake(folder / "d", pa.table({"x": [SECRET]}))
    return folder


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake", allow=()) as opened:
        opened.write("t.parquet", {"x": [1]})
        await opened.rows(f"CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{opened.folder}/t.parquet'")
        yield opened


async def refuses(lake: Lake, sql: str) -> None:
    """The statement is refused, or at least tells nothing."""
    try:
        rows = await lake.rows(sql)
    except FirnlineError as error:
        assert str(SECRET) not in str(error)
    else:
        assert str(SECRET) not in str(rows)


@pytest.mark.parametrize(
    "location",
    ["{secret}/x.parquet", "file://{secret}/x.parquet", "file:{secret}/x.parquet", "{lake}/../lake-secret/x.parquet",
     "{lake}-secret/x.parquet", "{lake}/./../lake-secret/*.parquet", "{secret}", "{secret}/**", "/", "/*/*", "s3://bucket/x",
     "s3a://bucket/x", "{lake}/..", "//{secret}/x.parquet", "FILE://{secret}/x.parquet", "{lake}/../*/x.parquet"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["parquet", "delta", "iceberg"])
async def test_a_location_outside_is_forbidden(lake: Lake, secret: Path, location: str, kind: str) -> None:
    where = location.format(secret=secret, lake=lake.folder)
    for sql in (
        f"SELECT * FROM {kind}('{where}')",
        f"SELECT (SELECT max(x) FROM {kind}('{where}')) FROM t",
        f"WITH a AS (SELECT * FROM t JOIN {kind}('{where}') USING (x)) SELECT * FROM a",
        f"EXPLAIN SELECT * FROM {kind}('{where}')",
        f"DESCRIBE {kind}('{where}')",
        f"CREATE EXTERNAL TABLE s STORED AS {kind} LOCATION '{where}'",
    ):
        with pytest.raises(ForbiddenError, match="outside"):
            await lake.rows(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM '{secret}/x.parquet'",
        'SELECT * FROM "{secret}/x.parquet"',
        "SELECT * FROM `{secret}/x.parquet`",
        'SELECT * FROM "file://{secret}/x.parquet"',
        "SELECT * FROM read_parquet('{secret}/x.parquet')",
        "SELECT * FROM read_csv('{secret}/x.csv')",
        "SELECT * FROM parquet_metadata('{secret}/x.parquet')",
        "COPY t TO '{secret}/out.csv'",
        "COPY t FROM '{secret}/x.csv'",
        "COPY (SELECT 1) TO '{secret}/out.csv' STORED AS CSV",
        "EXPLAIN ANALYZE COPY t TO '{lake}/out.csv'",
        "EXPLAIN COPY t TO '{lake}/out.csv'",
        "CREATE EXTERNAL TABLE s STORED AS CSV LOCATION '{secret}/x.csv'",
        "EXPLAIN CREATE EXTERNAL TABLE s STORED AS CSV LOCATION '{secret}/x.csv'",
        "CREATE EXTERNAL TABLE firnline.scans.s STORED AS PARQUET LOCATION '{secret}/x.parquet'",
        "CREATE EXTERNAL TABLE s STORED AS PARQUET LOCATION ('{lake}/t.parquet', '{secret}/x.parquet')",
        "INSERT INTO t SELECT 1",
        "EXPLAIN ANALYZE INSERT INTO t SELECT 1",
        "SET datafusion.catalog.location = '{secret}'",
        "CREATE FUNCTION f() RETURNS INT RETURN 1",
        "CREATE TABLE s AS SELECT * FROM parquet('{secret}/x.parquet')",
        "EXPLAIN ANALYZE CREATE TABLE s AS SELECT 1",
        "SELECT * FROM scans.made",
        "SELECT * FROM firnline.scans.n0",
        "SELECT * FROM _t0",
        "SELECT * FROM datafusion.public.t",
        "DROP TABLE scans.made",
        "CREATE SCHEMA scans",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "TRUNCATE t",
        "DELETE FROM t",
        "SELECT * FROM parquet('http://169.254.169.254/latest/meta-data')",
        "SELECT * FROM delta('https://example.com/x')",
        "SELECT * FROM parquet(('{secret}/x.parquet'))",
        "SELECT * FROM parquet('{lake}/t.parquet', '{secret}/x.parquet')",
        "SELECT * FROM parquet($$" + "{secret}/x.parquet$$)",
        "SELECT * FROM parquet(E'{secret}/x\\.parquet')",
    ],
)
async def test_no_other_statement_reads_or_writes_a_path(lake: Lake, secret: Path, sql: str) -> None:
    with pytest.raises(FirnlineError) as caught:
        await lake.rows(sql.format(secret=secret, lake=lake.folder))
    assert str(SECRET) not in str(caught.value)
    assert not (lake.folder / "out.csv").exists()
    assert not (secret / "out.csv").exists()
    assert await lake.rows("SELECT * FROM t") == [(1,)]


async def test_links_lead_nowhere(lake: Lake, secret: Path) -> None:
    (lake.folder / "folder").symlink_to(secret)
    (lake.folder / "g").mkdir()
    (lake.folder / "g" / "a.parquet").symlink_to(secret / "x.parquet")
    (lake.folder / "g" / "dir").symlink_to(secret)
    for path in ("folder/x.parquet", "folder", "folder/*", "g/a.parquet", "g", "g/*.parquet", "**", "g/dir/x.parquet"):
        await refuses(lake, f"SELECT * FROM parquet('{lake.folder}/{path}')")
    await refuses(lake, f"SELECT * FROM delta('{lake.folder}/folder/d')")


async def test_a_link_made_after_the_table_leads_nowhere(lake: Lake, secret: Path) -> None:
    (lake.folder / "t.parquet").unlink()
    (lake.folder / "t.parquet").symlink_to(secret / "x.parquet")
    await refuses(lake, "SELECT * FROM t")


@pytest.mark.parametrize(
    "path", ["file://{secret}/x.parquet", "../../lake-secret/x.parquet", "{secret}/x.parquet", "s3://b/x.parquet"]
)
async def test_a_delta_log_names_no_file_outside(lake: Lake, secret: Path, path: str) -> None:
    location = lake.folder / "d"
    await asyncio.to_thread(deltalake.write_deltalake, location, pa.table({"x": [1]}))
    add = {
        "path": path.format(secret=secret), "partitionValues": {}, "size": (secret / "x.parquet").stat().st_size,
        "modificationTime": 1, "dataChange": True,
    }  # fmt: skip
    (location / "_delta_log" / f"{1:020}.json").write_text(json.dumps({"add": add}))
    with pytest.raises((ForbiddenError, UnsupportedError), match=r"outside|absolute path"):
        await lake.rows(f"SELECT * FROM delta('{location}')")
    vector = {
        "storageType": "p",
        "pathOrInlineDv": f"file://{secret}/x.parquet",
        "sizeInBytes": 30,
        "cardinality": 1,
        "offset": 1,
    }
    inside = {**add, "path": "part.parquet", "deletionVector": vector}
    pq.write_table(pa.table({"x": [1]}), location / "part.parquet")
    (location / "_delta_log" / f"{1:020}.json").write_text(json.dumps({"add": inside}))
    await refuses(lake, f"SELECT * FROM delta('{location}')")


def write_iceberg_copy(lake: Lake, secret: Path) -> tuple[Path, Path]:
    """Return a metadata file in the lake whose manifest list lies outside, and one whose data files do."""
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("c", uri=f"sqlite:///{secret}/cat.db", warehouse=f"file://{secret}/w")
    catalog.create_namespace("n")
    table = catalog.create_table("n.t", pa.schema([("x", pa.int64())]))
    table.append(pa.table({"x": [SECRET]}))
    catalog.close()
    metadata = Path(table.metadata_location.removeprefix("file://"))
    inside = lake.folder / "i" / "metadata"
    inside.mkdir(parents=True)
    for file in metadata.parent.iterdir():
        (inside / file.name).write_bytes(file.read_bytes())
    near = inside / "00009-near.metadata.json"
    near.write_text(metadata.read_text().replace(f"file://{metadata.parent}/snap", f"file://{inside}/snap"))
    return inside / metadata.name, near


async def test_iceberg_metadata_names_no_file_outside(lake: Lake, secret: Path) -> None:
    for metadata in await asyncio.to_thread(write_iceberg_copy, lake, secret):
        with pytest.raises(ForbiddenError, match="outside"):
            await lake.rows(f"SELECT * FROM iceberg('{metadata}')")


async def test_an_allowed_prefix_is_reached(tmp_path: Path, secret: Path) -> None:
    async with open_lake(tmp_path / "lake", allow=(str(secret),)) as lake:
        assert await lake.value(f"SELECT x FROM parquet('{secret}/x.parquet')") == SECRET
        with pytest.raises(ForbiddenError):
            await lake.rows(f"SELECT x FROM parquet('{secret}2/x.parquet')")
