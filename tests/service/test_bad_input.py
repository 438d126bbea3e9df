"""Bad input gets a clear error that names the thing, and the engine goes on."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import deltalake
import pyarrow as pa
import pytest

from storage.errors import (
    CorruptError,
    FirnlineError,
    InvalidError,
    NotFoundError,
    SqlError,
    TooLargeError,
    UnsupportedError,
)
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path / "lake") as opened:
        path = opened.write("t.parquet", {"x": [1, 2], "name": ["a", None]})
        await opened.rows(f"CREATE EXTERNAL TABLE orders STORED AS PARQUET LOCATION '{path}'")
        yield opened
        assert await opened.value("SELECT sum(x) FROM orders") == 3


@pytest.mark.parametrize(
    ("sql", "kind", "words", "place"),
    [
        ("SELECT * FORM orders", SqlError, "expected", (1, 10)),
        ("SELECT\n  x,\n  FROM orders WHERE", SqlError, "expected", (3, 20)),
        ("SELEC 1", SqlError, "did you mean SELECT", (1, 1)),
        ("SELECT 'a", SqlError, "not closed", (1, 8)),
        ("SELECT * FROM order_s", NotFoundError, "did you mean orders", (1, 15)),
        ("SELECT * FROM nope.orders", NotFoundError, "no such table: nope.orders", (1, 20)),
        ("SELECT\n nam FROM orders", SqlError, "did you mean", (2, 2)),
        ("SELECT nope FROM parquet('{lake}/t.parquet')", SqlError, "the columns are x, name", (1, 8)),
        ("SELECT x + name FROM orders", SqlError, "cannot coerce", None),
        ("SELECT * FROM orders WHERE x = 'abc'", InvalidError, "'abc'", None),
        ("SELECT 1 / (x - x) FROM orders", InvalidError, "divide by zero", None),
        ("SELECT foo(x) FROM orders", SqlError, "foo", (1, 8)),
        ("SELECT x FROM orders GROUP BY name", SqlError, "GROUP BY", None),
        ("SELECT * FROM orders o, orders o", SqlError, "", None),
        ("INSERT INTO orders VALUES (1)", InvalidError, "external", None),
        ("SELECT $1", InvalidError, "$1", None),
        ("SELECT * FROM parquet()", SqlError, "one string", (1, 15)),
        ("SELECT * FROM parquet(1)", SqlError, "one string", (1, 15)),
        ("SELECT * FROM delta", NotFoundError, "delta", (1, 15)),
        ("SELECT * FROM orders FOR VERSION AS OF 3", InvalidError, "no versions", None),
        ("SELECT * FROM nope FOR VERSION AS OF 3", NotFoundError, "no such table: nope", (1, 15)),
        ("SELECT * FROM parquet('{lake}/nope')", NotFoundError, "nope", None),
        ("SELECT * FROM delta('{lake}')", NotFoundError, "_delta_log", None),
        ("SELECT * FROM iceberg('{lake}')", NotFoundError, "metadata", None),
        ("SELECT * FROM iceberg('{lake}/v1.metadata.json')", NotFoundError, "v1.metadata.json", None),
        ("SELECT * FROM parquet('ftp://x/y')", InvalidError, "ftp", None),
        ("SELECT x FROM orders ORDER BY 7", SqlError, "out of bounds", None),
    ],
)  # fmt: skip
async def test_a_mistake_is_named(
    lake: Lake, sql: str, kind: type[FirnlineError], words: str, place: tuple[int, int] | None
) -> None:
    with pytest.raises(kind) as caught:
        await lake.rows(sql.format(lake=lake.folder))
    assert words in str(caught.value)
    assert "_t0" not in str(caught.value)
    assert "DataFusion" not in str(caught.value)
    if place is not None:
        assert (caught.value.facts["line"], caught.value.facts["column"]) == place


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "(" * 10_000 + "1" + ")" * 10_000,
        "SELECT " + "CASE WHEN true THEN " * 5_000 + "1" + " END" * 5_000,
        "SELECT 1 FROM orders WHERE " + " OR ".join(f"x={i}" for i in range(3_000)),
        "SELECT 1 FROM orders WHERE " + " AND ".join(f"x<>{i}" for i in range(3_000)),
        "SELECT * FROM (" * 500 + "SELECT 1" + ")" * 500, " UNION ALL ".join(["SELECT 1"] * 2_000),
        " EXCEPT ".join(["SELECT 1"] * 2_000), "SELECT " + "[" * 5_000, "SELECT " + "x.".join(["x"] * 5_000),
        "SELECT " + "NOT " * 5_000 + "true", "SELECT '" + "x" * 5_000_000 + "'", "(" * 4_000_000,
    ],
    ids=lambda sql: f"{len(sql)} {sql[:30]}",
)  # fmt: skip
async def test_a_statement_too_large_or_deep_is_refused(lake: Lake, sql: str) -> None:
    with pytest.raises((TooLargeError, SqlError)):
        await lake.rows(sql)


async def test_long_lists_are_answered(lake: Lake) -> None:
    values = ",".join(map(str, range(2, 50_000)))
    assert await lake.value(f"SELECT count(*) FROM orders WHERE x IN ({values})") == 1


@pytest.mark.parametrize(
    "text", ["it's", '"', "\\", "a\x00b", "雪\n--", "'); DROP TABLE orders; --", "$1", "%00", "{}", "_t0"]
)
async def test_text_stays_text_wherever_it_stands(lake: Lake, text: str) -> None:
    assert await lake.rows("SELECT $1, length($1)", [text]) == [(text, len(text))]
    quoted, name = text.replace("'", "''"), text.replace('"', '""')
    if "\x00" not in text:
        assert await lake.value(f"SELECT '{quoted}' AS \"{name}\"") == text
    for sql in (f"SELECT * FROM parquet('{quoted}')", f'SELECT * FROM "{name}"', f'SELECT "{name}" FROM orders'):
        with pytest.raises(FirnlineError):
            await lake.rows(sql)


NAMES = [
    "a b.parquet", "it's.parquet", "100%.parquet", "%41.parquet", "é雪.parquet", "a?b.parquet", "a#b.parquet",
    "a;b.parquet", 'q".parquet', "back\\slash.parquet", "no-extension", "x.PARQUET", "a=b.parquet", "a&b+c.parquet",
    "[x].parquet", "st*r.parquet", "~tilde.parquet", "a,b.parquet", "{b}.parquet",
]  # fmt: skip


@pytest.mark.parametrize("text", NAMES)
async def test_a_file_of_any_name_is_read(lake: Lake, text: str) -> None:
    path = lake.write(f"odd/{text}", {"x": [5]})
    assert await lake.rows(f"SELECT * FROM parquet('{path.replace(chr(39), chr(39) * 2)}')") == [(5,)]
    assert await lake.rows(f"SELECT * FROM parquet('{lake.folder}/odd') WHERE x > 4") == [(5,)]


# Damaged files


def damaged(kind: str, good: bytes) -> bytes:
    footer = int.from_bytes(good[-8:-4], "little") + 8
    data = bytearray(good)
    match kind:
        case "cut":
            return good[: len(good) // 2]
        case "last byte":
            return good[:-1]
        case "empty":
            return b""
        case "text":
            return b"this is no parquet file at all\n" * 20
        case "footer":
            data[len(data) - footer + 10 : len(data) - footer + 40] = b"\xff" * 30
        case "pages":
            data[100:3000:3] = bytes(255 - byte for byte in data[100:3000:3])
        case _:
            data = data[: len(data) - footer - 3000] + data[len(data) - footer :]
    return bytes(data)


@pytest.mark.parametrize("kind", ["cut", "last byte", "empty", "text", "footer", "pages", "missing pages"])
@pytest.mark.parametrize("alone", [True, False])
async def test_a_damaged_file_is_named(lake: Lake, kind: str, alone: bool) -> None:
    numbers = list(range(20_000))
    table = pa.table({"x": numbers, "s": [f"text {n} {n * 7}" for n in numbers]})
    lake.write("d/good.parquet", table, row_group_size=5_000)
    good, bad = lake.folder / "d" / "good.parquet", lake.folder / "d" / "bad.parquet"
    bad.write_bytes(damaged(kind, good.read_bytes()))
    location = bad if alone else good.parent
    if kind == "empty" and not alone:
        assert await lake.value(f"SELECT count(*) FROM parquet('{location}')") == 20_000
        return
    with pytest.raises(CorruptError, match=r"bad\.parquet"):
        await lake.rows(f"SELECT max(s || s), sum(x) FROM parquet('{location}')")
    assert await lake.value(f"SELECT sum(x) FROM parquet('{good}')") == sum(numbers)


async def test_a_file_that_vanishes_is_named(lake: Lake) -> None:
    for name in ("a", "b"):
        lake.write(f"v/{name}.parquet", {"x": [1]})
    await lake.rows(f"CREATE EXTERNAL TABLE v STORED AS PARQUET LOCATION '{lake.folder}/v/a.parquet'")
    (lake.folder / "v" / "a.parquet").unlink()
    with pytest.raises(NotFoundError, match=r"v/a\.parquet"):
        await lake.rows("SELECT * FROM v")


@pytest.mark.slow
async def test_flipped_bytes_anywhere_are_an_answer_or_an_error_of_ours(lake: Lake) -> None:
    numbers = list(range(3_000))
    data = {"x": numbers, "s": [f"s{n}" * 3 for n in numbers], "l": [[n] for n in numbers]}
    lake.write("d/good.parquet", data, row_group_size=1_000)
    good = (lake.folder / "d" / "good.parquet").read_bytes()
    chance = random.Random(7)
    for _ in range(60):
        bad = bytearray(good)
        for _ in range(chance.choice([1, 3, 30])):
            bad[chance.randrange(len(bad))] ^= chance.randrange(1, 256)
        (lake.folder / "d" / "bad.parquet").write_bytes(bad)
        try:
            await lake.rows(f"SELECT max(s || s), sum(x), count(l[1]) FROM parquet('{lake.folder}/d')")
        except FirnlineError as error:
            assert "bad.parquet" in str(error)


# Damaged tables


async def delta(lake: Lake, versions: int = 3) -> Path:
    location = lake.folder / "delta"
    for number in range(versions):
        await asyncio.to_thread(deltalake.write_deltalake, location, pa.table({"x": [number]}), mode="append")
    return location / "_delta_log"


async def test_a_gap_in_a_delta_log_is_named(lake: Lake) -> None:
    log = await delta(lake)
    (log / f"{1:020}.json").unlink()
    with pytest.raises(CorruptError, match="1"):
        await lake.rows(f"SELECT * FROM delta('{log.parent}')")


@pytest.mark.parametrize(
    "text", ["", "{", "not json", '{"add": 5}', '{"add": {}}', "[]", '{"protocol": {"minReaderVersion": "x"}}', "\x00"]
)
async def test_a_delta_entry_that_does_not_read_is_named(lake: Lake, text: str) -> None:
    log = await delta(lake)
    (log / f"{1:020}.json").write_text(text)
    try:
        assert await lake.value(f"SELECT count(*) FROM delta('{log.parent}')") == 2
    except FirnlineError as error:
        assert isinstance(error, CorruptError)
        assert f"{1:020}.json" in str(error)


async def test_an_unknown_reader_feature_is_refused_by_name(lake: Lake) -> None:
    log = await delta(lake)
    protocol = {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": ["timeCrystals"],
        "writerFeatures": ["timeCrystals"],
    }
    (log / f"{3:020}.json").write_text(json.dumps({"protocol": protocol}))
    with pytest.raises(UnsupportedError, match="timeCrystals"):
        await lake.rows(f"SELECT * FROM delta('{log.parent}')")


async def test_a_missing_data_file_of_a_delta_table_is_named(lake: Lake) -> None:
    log = await delta(lake)
    victim = next(log.parent.glob("*.parquet"))
    victim.unlink()
    with pytest.raises((NotFoundError, CorruptError), match=victim.name):
        await lake.rows(f"SELECT * FROM delta('{log.parent}')")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"format-version": 9}',
        '{"format-version": 2, "table-uuid": "x", "location": "/x", "schemas": []}',
    ],
)
async def test_iceberg_metadata_that_does_not_read_is_named(lake: Lake, text: str) -> None:
    path = lake.folder / "i" / "metadata" / "v1.metadata.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises((CorruptError, UnsupportedError), match=r"v1\.metadata\.json"):
        await lake.rows(f"SELECT * FROM iceberg('{lake.folder}/i')")


async def test_iceberg_metadata_that_points_to_nothing_names_what_is_missing(lake: Lake) -> None:
    from pyiceberg.catalog.sql import SqlCatalog

    def make() -> Path:
        catalog = SqlCatalog("c", uri=f"sqlite:///{lake.folder}/cat.db", warehouse=f"file://{lake.folder}/w")
        catalog.create_namespace("n")
        table = catalog.create_table("n.t", pa.schema([("x", pa.int64())]))
        table.append(pa.table({"x": [1]}))
        catalog.close()
        return lake.folder / "w" / "n" / "t"

    table = await asyncio.to_thread(make)
    manifest = next(each for each in table.glob("metadata/*.avro") if not each.name.startswith("snap-"))
    moved = manifest.rename(manifest.with_suffix(".gone"))
    with pytest.raises((NotFoundError, CorruptError), match=manifest.name):
        await lake.rows(f"SELECT * FROM iceberg('{table}')")
    moved.rename(manifest)
    data = next(table.glob("data/*.parquet"))
    data.unlink()
    with pytest.raises((NotFoundError, CorruptError), match=data.name):
        await lake.rows(f"SELECT * FROM iceberg('{table}')")
