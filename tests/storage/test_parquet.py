"""Parquet files, globs and folders as tables."""

import datetime as dt
import io
import math
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import CorruptError, InvalidError, NotFoundError, UnsupportedError
from storage.stores import Stores
from storage.tables.footers import FooterCache
from storage.tables.parquet import _glob_regex, load
from storage.tables.snapshot import At, Snapshot

pytestmark = pytest.mark.anyio


def parquet(data: Mapping[str, Any] | pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(data if isinstance(data, pa.Table) else pa.table(dict(data)), sink, **options)
    return sink.getvalue()


class Bucket:
    """A table loader over blobs in memory."""

    def __init__(self) -> None:
        self.blobs = MemoryBlobs(SystemClock())
        self.stores = Stores(lambda _root: self.blobs)
        self.footers = FooterCache()

    async def put(self, key: str, data: Mapping[str, Any] | bytes | pa.Table, **options: Any) -> None:
        await self.blobs.put(key, data if isinstance(data, bytes) else parquet(data, **options))

    async def load(self, location: str, known: Snapshot | None = None, at: At | None = None) -> Snapshot:
        return await load(self.stores, f"s3://b/{location}", at or At(), known, self.footers)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


def names(snapshot: Snapshot) -> list[str]:
    return [path.removeprefix("s3://b/") for path in snapshot.files.paths]


async def test_a_file_is_a_table(bucket: Bucket) -> None:
    await bucket.put("a.parquet", {"x": [1, 2], "s": ["a", None]})
    snapshot = await bucket.load("a.parquet")
    assert snapshot.schema.names == ["x", "s"]
    assert list(snapshot.files.n_rows) == [2]
    assert snapshot.files.stats("x").maximum.to_pylist() == [2]  # type: ignore[union-attr]
    assert snapshot.files.stats("s").null_count.to_pylist() == [1]  # type: ignore[union-attr]


async def test_a_folder_holds_its_visible_parquet_files(bucket: Bucket) -> None:
    for name in (
        "a.parquet",
        "sub/b.PARQUET",
        "sub/c.pq",
        "_SUCCESS",
        "_tmp/d.parquet",
        ".hidden.parquet",
        "notes.txt",
        "empty.parquet",
    ):
        await bucket.put(f"t/{name}", b"" if name.startswith(("_SUCCESS", "empty")) else parquet({"x": [1]}))
    await bucket.put("t2/z.parquet", {"x": [1]})
    assert names(await bucket.load("t")) == ["t/a.parquet", "t/sub/b.PARQUET", "t/sub/c.pq"]


async def test_a_folder_without_parquet_names_holds_all_its_visible_files(bucket: Bucket) -> None:
    await bucket.put("t/part-0", {"x": [1]})
    await bucket.put("t/_meta", b"nothing")
    assert names(await bucket.load("t")) == ["t/part-0"]


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("t/*.parquet", ["t/a.parquet", "t/b.parquet"]),
        ("t/?.parquet", ["t/a.parquet", "t/b.parquet"]),
        ("t/**", ["t/a.parquet", "t/b.parquet", "t/s/c.parquet"]),
        ("t/**/*.parquet", ["t/a.parquet", "t/b.parquet", "t/s/c.parquet"]),
        ("t/[a-a].parquet", ["t/a.parquet"]),
        ("t/[!a].parquet", ["t/b.parquet"]),
        ("t/[^a].parquet", ["t/b.parquet"]),
        ("*/*/c.parquet", ["t/s/c.parquet"]),
        ("u/[x].parquet", ["u/[x].parquet"]),
        ("u/*[[]x].parquet", ["u/[x].parquet"]),
    ],
)
async def test_a_glob_names_files(bucket: Bucket, pattern: str, matched: list[str]) -> None:
    for name in ("t/a.parquet", "t/b.parquet", "t/s/c.parquet", "u/[x].parquet"):
        await bucket.put(name, {"x": [1]})
    assert names(await bucket.load(pattern)) == matched


@pytest.mark.parametrize(
    "pattern", ["t/[z-a]*", "t/[", "t/[]", "t/[!]", "t/[!]a]", "t/[[]", "t/[a&&b]", "t/(*", "t/\\*", "t/[\\"]
)
async def test_a_glob_that_matches_nothing_says_so(bucket: Bucket, pattern: str) -> None:
    await bucket.put("t/x.parquet", {"x": [1]})
    with warnings.catch_warnings(), pytest.raises(NotFoundError, match="no Parquet file"):
        warnings.simplefilter("error")
        await bucket.load(pattern)


@given(st.text(alphabet="ab*?[]!^-\\/&|~.(", max_size=8), st.text(alphabet="ab/]-!", max_size=5))
def test_any_pattern_compiles(pattern: str, path: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = _glob_regex(pattern)
    if not re.search(r"[*?\[\]]", pattern):
        assert bool(compiled.fullmatch(path)) == (pattern == path)


async def test_folders_named_key_value_are_columns(bucket: Bucket) -> None:
    for name in ("y=2023/m=01/c=a%20b", "y=2024/m=02/c=__HIVE_DEFAULT_PARTITION__"):
        await bucket.put(f"t/{name}/a.parquet", {"x": [1]})
    snapshot = await bucket.load("t")
    assert snapshot.partition_columns == ("y", "m", "c")
    assert {name: values.to_pylist() for name, values in snapshot.files.partitions.items()} == {
        "y": [2023, 2024], "m": ["01", "02"], "c": ["a b", None],
    }  # fmt: skip
    assert snapshot.schema.names == ["x", "y", "m", "c"]


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        (["1", "-5", "__HIVE_DEFAULT_PARTITION__"], pa.int64()), (["2024-01-31"], pa.date32()),
        (["2024-01-31", "2024-02-31"], pa.string()), (["1", "x"], pa.string()), (["01"], pa.string()),
        (["9" * 19], pa.string()), (["__HIVE_DEFAULT_PARTITION__"], pa.string()), (["1.5"], pa.string()),
        ([""], pa.string()),
    ],
)  # fmt: skip
async def test_partition_values_have_the_narrowest_type_that_loses_nothing(
    bucket: Bucket, values: list[str], type_: pa.DataType
) -> None:
    for value in values:
        await bucket.put(f"t/p={value}/a.parquet", {"x": [1]})
    assert (await bucket.load("t")).schema.field("p").type == type_


async def test_a_partition_column_wins_over_the_files_own(bucket: Bucket) -> None:
    await bucket.put("t/p=7/a.parquet", {"x": [1], "p": ["other"]})
    snapshot = await bucket.load("t")
    assert snapshot.schema.field("p").type == pa.int64()


async def test_schemas_are_united_by_name(bucket: Bucket) -> None:
    await bucket.put("t/a.parquet", {"x": pa.array([1], pa.int32()), "gone": [1.5]})
    await bucket.put("t/b.parquet", {"new": ["a"], "x": pa.array([2**40], pa.int64())})
    snapshot = await bucket.load("t")
    assert snapshot.schema == pa.schema([("x", pa.int64()), ("gone", pa.float64()), ("new", pa.string())])
    stats = snapshot.files.stats("new")
    assert stats is not None
    assert stats.null_count.to_pylist() == [1, 0]


async def test_views_are_plain_strings_and_binary(bucket: Bucket) -> None:
    await bucket.put("t/a.parquet", {"s": pa.array(["a"], pa.string_view()), "b": pa.array([b"a"], pa.binary_view())})
    assert (await bucket.load("t")).schema == pa.schema([("s", pa.string()), ("b", pa.binary())])
    await bucket.put("t/b.parquet", {"s": pa.array(["a"], pa.large_string()), "b": [b"b"]})
    assert (await bucket.load("t")).schema == pa.schema([("s", pa.large_string()), ("b", pa.binary())])
    views = [pa.list_(pa.string_view()), pa.list_(pa.string_view(), 1), pa.map_(pa.string(), pa.string_view())]
    views += [pa.struct([("a", pa.string_view())]), pa.large_list(pa.binary_view())]
    await bucket.put("n/a.parquet", {str(place): pa.nulls(1, kind) for place, kind in enumerate(views)})
    plain = [pa.list_(pa.string()), pa.list_(pa.string(), 1), pa.map_(pa.string(), pa.string())]
    plain += [pa.struct([("a", pa.string())]), pa.large_list(pa.binary())]
    assert [str(each).replace("element", "item") for each in (await bucket.load("n")).schema.types] == [
        str(each) for each in plain
    ]


async def test_names_that_differ_in_case_are_one_column(bucket: Bucket) -> None:
    await bucket.put("t/a.parquet", {"Id": [1]})
    await bucket.put("t/b.parquet", {"ID": [2]})
    snapshot = await bucket.load("t")
    assert snapshot.schema.names == ["Id"]
    assert snapshot.files.stats("Id").minimum.to_pylist() == [1, 2]  # type: ignore[union-attr]
    await bucket.put("t/c.parquet", {"id": [3], "ID": [4]})
    with pytest.raises(UnsupportedError, match="two columns of one name"):
        await bucket.load("t")
    assert (await bucket.load("t/c.parquet")).schema.names == ["id", "ID"]


async def test_types_without_a_common_one_name_the_file(bucket: Bucket) -> None:
    await bucket.put("t/a.parquet", {"x": [1]})
    await bucket.put("t/b.parquet", {"x": ["a"]})
    with pytest.raises(UnsupportedError, match=r"s3://b/t/b\.parquet"):
        await bucket.load("t")


async def test_a_nested_column_does_not_lend_its_statistics_to_a_name_like_its_path(bucket: Bucket) -> None:
    await bucket.put("t/a.parquet", pa.table({"a": pa.array([{"b": 5}])}))
    await bucket.put("t/b.parquet", {"a.b": [7]})
    stats = (await bucket.load("t")).files.stats("a.b")
    assert stats is not None
    assert stats.minimum.to_pylist() == [None, 7]
    assert stats.null_count.to_pylist() == [1, 0]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([dt.date(2024, 1, 1), dt.date(2024, 2, 1)]), pa.array([1.5, 2.5]), pa.array([b"a", b"b"]),
        pa.array([dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 2)], pa.timestamp("us")),
        pa.array([dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 2)], pa.timestamp("ns", "UTC")),
        pa.array([True, False]), pa.array([1, 2], pa.uint8()), pa.array([1, 2]).cast(pa.decimal128(22, 3)),
        pa.array([dt.time(1), dt.time(2)], pa.time64("us")),
    ],
    ids=lambda values: str(values.type),
)  # fmt: skip
async def test_statistics_bound_the_values_of_every_type(bucket: Bucket, values: pa.Array) -> None:
    await bucket.put("a.parquet", {"x": values})
    stats = (await bucket.load("a.parquet")).files.stats("x")
    if stats is not None:
        assert stats.minimum.to_pylist() == [min(values.to_pylist())]
        assert stats.maximum.to_pylist() == [max(values.to_pylist())]


async def test_a_row_group_whose_bounds_are_nan_leaves_its_file_without_bounds(bucket: Bucket) -> None:
    data = parquet({"x": [2.0, 3.0, 1.0, 7.25]}, row_group_size=2, use_dictionary=False, compression="none")
    length = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - length : -8].replace(struct.pack("<d", 7.25), struct.pack("<d", math.nan))
    await bucket.put("a.parquet", data[: -8 - length] + footer + data[-8:])
    stats = (await bucket.load("a.parquet")).files.stats("x")
    assert stats is not None
    assert stats.minimum.to_pylist() == [None]
    assert stats.maximum.to_pylist() == [None]


async def test_the_same_listing_is_the_same_snapshot_after_one_request(bucket: Bucket) -> None:
    for number in range(3):
        await bucket.put(f"t/{number}.parquet", {"x": [number]})
    first = await bucket.load("t")
    before = bucket.stores.count.requests
    assert await bucket.load("t", first) is first
    assert bucket.stores.count.requests - before <= 2
    await bucket.put("t/1.parquet", {"x": [9]})
    second = await bucket.load("t", first)
    assert second.etag != first.etag
    assert second.files.stats("x").maximum.to_pylist() == [0, 9, 2]  # type: ignore[union-attr]


@pytest.mark.parametrize("at", [At(version=1), At(timestamp_ms=1), At(ref="x")])
async def test_a_parquet_table_has_no_versions(bucket: Bucket, at: At) -> None:
    await bucket.put("a.parquet", {"x": [1]})
    with pytest.raises(InvalidError, match="no versions"):
        await bucket.load("a.parquet", at=at)


@pytest.mark.parametrize(
    ("key", "words"), [("t/_delta_log/00000000000000000000.json", "delta"), ("t/metadata/v1.metadata.json", "iceberg")]
)
async def test_a_table_of_another_format_is_not_read_as_parquet(bucket: Bucket, key: str, words: str) -> None:
    await bucket.put("t/a.parquet", {"x": [1]})
    await bucket.put(key, b"{}")
    with pytest.raises(InvalidError, match=words):
        await bucket.load("t")


async def test_nothing_there_says_where(bucket: Bucket) -> None:
    for location in ("nope", "nope/*.parquet", "nope.parquet"):
        with pytest.raises(NotFoundError, match=re.escape(f"s3://b/{location}")):
            await bucket.load(location)


async def test_a_file_that_is_no_parquet_is_named(bucket: Bucket, tmp_path: Path) -> None:
    good = parquet({"x": list(range(1000))})
    for bad in (
        b"hello, world, this is text",
        good[:-1],
        good[: len(good) // 2],
        good[:-8] + b"\xff\xff\xff\x7fPAR1",
        b"PAR1",
    ):
        await bucket.put("t/bad.parquet", bad)
        with pytest.raises(CorruptError, match=r"s3://b/t/bad\.parquet"):
            await bucket.load("t")
