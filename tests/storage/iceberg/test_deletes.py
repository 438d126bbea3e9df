"""Which rows a reader must not see: positions, equality and deletion vectors, by sequence number and partition."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from storage.errors import CorruptError, UnsupportedError
from storage.tables.iceberg import load
from storage.tables.iceberg.delete_files import DeleteCache, decode_vector
from storage.tables.snapshot import At
from tests.support.iceberg_build import IcebergBuilder, Manifest, column, vector_blob
from tests.support.iceberg_read import local_stores, read_table

pytestmark = pytest.mark.anyio

COLUMNS = [column(1, "id", "long"), column(2, "part", "string")]


def rows(*ids: int, part: str = "a") -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64()), "part": [part] * len(ids)})


@pytest.fixture
def build(tmp_path: Path) -> IcebergBuilder:
    return IcebergBuilder(tmp_path / "t", COLUMNS)


async def ids(build: IcebergBuilder, *manifests: Manifest) -> list[int]:
    stores = local_stores()
    snapshot = await load(stores, build.commit(*manifests), At(), None)
    return sorted((await read_table(stores, snapshot)).column("id").to_pylist())


@pytest.mark.parametrize("file_format", ["PARQUET", "ORC", "AVRO"])
async def test_position_deletes_of_every_format_apply(build: IcebergBuilder, file_format: str) -> None:
    data = build.parquet("a.parquet", rows(1, 2, 3), [1, 2])
    deletes = build.position_deletes("d", [(data.path, 0), (data.path, 2), (data.path, 2)], file_format)
    assert await ids(build, Manifest([data]), Manifest([deletes], content=1)) == [2]


async def test_position_deletes_name_files_in_any_spelling(build: IcebergBuilder) -> None:
    data = build.parquet("a.parquet", rows(1, 2, 3), [1, 2])
    spelt = data.path.replace("file:///", "file:/")
    deletes = build.position_deletes("d", [(spelt, 0), (data.path, 1)], lower={2147483546: b"zzz"}, upper={})
    assert await ids(build, Manifest([data]), Manifest([deletes], content=1)) == [3]


@pytest.mark.parametrize(("sequence", "left"), [(1, []), (2, []), (3, [1])])
async def test_position_deletes_apply_to_files_that_are_not_newer(
    build: IcebergBuilder, sequence: int, left: list[int]
) -> None:
    data = build.parquet("a.parquet", rows(1), [1, 2])
    deletes = build.position_deletes("d", [(data.path, 0)])
    assert await ids(build, Manifest([data], sequence=sequence), Manifest([deletes], content=1, sequence=2)) == left


@pytest.mark.parametrize(("sequence", "left"), [(1, []), (2, [1]), (3, [1])])
async def test_equality_deletes_apply_to_files_that_are_older(
    build: IcebergBuilder, sequence: int, left: list[int]
) -> None:
    data = build.parquet("a.parquet", rows(1), [1, 2])
    deletes = build.parquet("d.parquet", rows(1).select(["id"]), [1], content=2, equality_ids=[1])
    assert await ids(build, Manifest([data], sequence=sequence), Manifest([deletes], content=1, sequence=2)) == left


async def test_an_existing_entry_keeps_its_own_sequence_number(build: IcebergBuilder) -> None:
    old = build.parquet("a.parquet", rows(1), [1, 2], status=0, sequence=1)
    new = build.parquet("b.parquet", rows(1), [1, 2])
    deletes = build.parquet("d.parquet", rows(1).select(["id"]), [1], content=2, equality_ids=[1])
    manifests = Manifest([old, new], sequence=5), Manifest([deletes], content=1, sequence=3)
    assert await ids(build, *manifests) == [1]


async def test_deleted_entries_are_not_read(build: IcebergBuilder) -> None:
    gone = build.parquet("a.parquet", rows(1), [1, 2], status=2)
    kept = build.parquet("b.parquet", rows(2), [1, 2])
    assert await ids(build, Manifest([gone, kept])) == [2]


async def test_a_deletion_vector_replaces_position_deletes(build: IcebergBuilder) -> None:
    data = build.parquet("a.parquet", rows(1, 2, 3), [1, 2])
    positions = build.position_deletes("d", [(data.path, 0)])
    vector = build.vector("v.puffin", data.path, [1])
    assert await ids(build, Manifest([data]), Manifest([positions, vector], content=1)) == [1, 3]


async def test_a_deletion_vector_does_not_apply_to_a_newer_file(build: IcebergBuilder) -> None:
    data = build.parquet("a.parquet", rows(1, 2), [1, 2])
    vector = build.vector("v.puffin", data.path, [1])
    assert await ids(build, Manifest([data], sequence=3), Manifest([vector], content=1, sequence=2)) == [1, 2]


async def test_two_deletion_vectors_of_one_file_are_refused(build: IcebergBuilder) -> None:
    data = build.parquet("a.parquet", rows(1, 2), [1, 2])
    vectors = [build.vector(f"{i}.puffin", data.path, [i]) for i in range(2)]
    with pytest.raises(CorruptError, match=r"a\.parquet"):
        await ids(build, Manifest([data]), Manifest(vectors, content=1))


def partitioned(build: IcebergBuilder, part: str, *numbers: int, **entry: Any) -> Any:
    name = f"{part}-{len(list((build.folder / 'data').iterdir()))}.parquet"
    return build.parquet(name, rows(*numbers, part=part), [1, 2], partition={"part": part}, **entry)


async def test_deletes_of_a_partition_stay_within_it(build: IcebergBuilder) -> None:
    spec = {"name": "part", "transform": "identity", "source-id": 2, "field-id": 1000}
    build.specs = [{"spec-id": 0, "fields": [spec]}, {"spec-id": 1, "fields": [{**spec, "transform": "void"}]}]
    types = {("part", 1000): "string"}
    data = Manifest([partitioned(build, "a", 1, 2), partitioned(build, "b", 1, 2)], partition=types)
    within = build.parquet("e1", rows(1).select(["id"]), [1], content=2, equality_ids=[1], partition={"part": "a"})
    everywhere = build.parquet("e2", rows(2).select(["id"]), [1], content=2, equality_ids=[1])
    only_a = Manifest([within], content=1, sequence=2, partition=types)
    assert await ids(build, data, only_a) == [1, 2, 2]
    unpartitioned = Manifest([everywhere], content=1, sequence=2, spec_id=1, partition=types)
    assert await ids(build, data, unpartitioned) == [1, 1]
    assert await ids(build, data, only_a, unpartitioned) == [1]


async def test_decimal_partitions_match_whatever_their_width(build: IcebergBuilder) -> None:
    build.schemas[0]["fields"].append(column(3, "d", "decimal(18, 2)"))
    build.specs = [{"spec-id": 0, "fields": [{"name": "d", "transform": "identity", "source-id": 3, "field-id": 1000}]}]
    table = rows(1).append_column("d", pa.array(["1.00"]).cast(pa.decimal128(18, 2)))
    data = build.parquet("a.parquet", table, [1, 2, 3], partition={"d": b"\x00\x00\x00\x64"})
    wide = (100).to_bytes(8, "big")
    deletes = build.parquet("e", rows(1).select(["id"]), [1], content=2, equality_ids=[1], partition={"d": wide})
    narrow = {("d", 1000): {"type": "fixed", "name": "dec4", "size": 4, "logicalType": "decimal", "precision": 9, "scale": 2}}  # fmt: skip # noqa: E501
    broad = {("d", 1000): {"type": "fixed", "name": "dec8", "size": 8, "logicalType": "decimal", "precision": 18, "scale": 2}}  # fmt: skip # noqa: E501
    manifests = Manifest([data], partition=narrow), Manifest([deletes], content=1, sequence=2, partition=broad)
    assert await ids(build, *manifests) == []


async def test_nulls_equal_nulls_and_promoted_columns_compare(build: IcebergBuilder) -> None:
    data = build.parquet("a.parquet", pa.table({"id": pa.array([1, None, 3], pa.int64())}), [1])
    keys = pa.table({"id": pa.array([None, 3], pa.int32())})
    deletes = build.parquet("d.parquet", keys, [1], content=2, equality_ids=[1])
    assert await ids(build, Manifest([data]), Manifest([deletes], content=1, sequence=2)) == [1]


async def test_deletes_from_before_and_after_a_promotion_apply_together(build: IcebergBuilder) -> None:
    data = build.parquet("a.parquet", rows(1, 2, 3), [1, 2])
    narrow, wide = pa.table({"id": pa.array([1], pa.int32())}), pa.table({"id": pa.array([3], pa.int64())})
    before = build.parquet("d.parquet", narrow, [1], content=2, equality_ids=[1])
    after = build.parquet("e.parquet", wide, [1], content=2, equality_ids=[1])
    manifests = [Manifest([each], content=1, sequence=2) for each in (before, after)]
    assert await ids(build, Manifest([data]), *manifests) == [2]


async def test_equality_columns_may_have_left_the_schema(build: IcebergBuilder) -> None:
    data = build.parquet("a.parquet", rows(1, 2), [1, 2])
    other = build.parquet("b.parquet", rows(3, part="b"), [1, 2])
    deletes = build.parquet("d.parquet", pa.table({"part": ["a"]}), [2], content=2, equality_ids=[2])
    build.schemas.append({"type": "struct", "schema-id": 1, "fields": [COLUMNS[0]]})
    assert await ids(build, Manifest([data, other]), Manifest([deletes], content=1, sequence=2)) == [3]


async def test_equality_deletes_on_a_nested_field_are_refused(build: IcebergBuilder) -> None:
    inner = {"type": "struct", "fields": [column(4, "x", "int")]}
    build.schemas[0]["fields"].append(column(3, "s", inner))
    data = build.parquet("a.parquet", rows(1), [1, 2])
    deletes = build.parquet("d.parquet", rows(1).select(["id"]), [4], content=2, equality_ids=[4])
    with pytest.raises(UnsupportedError, match="nested"):
        await ids(build, Manifest([data]), Manifest([deletes], content=1, sequence=2))


async def test_a_null_among_position_deletes_names_no_row(build: IcebergBuilder) -> None:
    data = build.parquet("a.parquet", rows(1, 2), [1, 2])
    odd: list[Any] = [(data.path, None), (None, 1), (data.path, 0)]
    assert await ids(build, Manifest([data]), Manifest([build.position_deletes("d", odd)], content=1)) == [2]


@pytest.mark.parametrize("file_format", ["PARQUET", "ORC", "AVRO"])
async def test_a_damaged_delete_file_is_named(build: IcebergBuilder, file_format: str) -> None:
    data = build.parquet("a.parquet", rows(1, 2), [1, 2])
    deletes = build.position_deletes("damaged", [(data.path, 0)], file_format)
    path = build.folder / "data/damaged"
    whole = path.read_bytes()
    for data_now in (whole[: len(whole) // 2], b"", whole.replace(b"a.parquet", b"\xff.parquet")):
        path.write_bytes(data_now)
        with pytest.raises(CorruptError, match="damaged"):
            await ids(build, Manifest([data]), Manifest([deletes], content=1))


async def test_a_missing_delete_file_is_named(build: IcebergBuilder) -> None:
    data = build.parquet("a.parquet", rows(1), [1, 2])
    deletes = build.position_deletes("gone", [(data.path, 0)])
    (build.folder / "data" / "gone").unlink()
    with pytest.raises(CorruptError, match="gone"):
        await ids(build, Manifest([data]), Manifest([deletes], content=1))


async def test_position_deletes_cut_bounds_do_not_hide_them(build: IcebergBuilder) -> None:
    data = build.parquet("a.parquet", rows(1, 2), [1, 2])
    cut = {2147483546: data.path[:16].encode()}
    deletes = build.position_deletes("d", [(data.path, 0)], lower=cut, upper=cut)
    assert await ids(build, Manifest([data]), Manifest([deletes], content=1)) == [2]


async def test_a_shared_delete_file_is_read_once(build: IcebergBuilder) -> None:
    files = [build.parquet(f"{i}.parquet", rows(i, i + 10), [1, 2]) for i in range(5)]
    deletes = build.position_deletes("d", [(file.path, 1) for file in files])
    stores = local_stores()
    location = build.commit(Manifest(files), Manifest([deletes], content=1))
    snapshot = await load(stores, location, At(), None)
    before = stores.count.requests
    loaded = await asyncio.gather(*(entry.load(stores) for entry in snapshot.files.deletes.values()))
    assert [part.positions.tolist() for part in loaded] == [[1]] * 5
    assert stores.count.requests == before + 1


async def test_delete_information_is_hashable_by_content(build: IcebergBuilder) -> None:
    data = build.parquet("a.parquet", rows(1), [1, 2])
    keys = build.parquet("d.parquet", rows(1).select(["id"]), [1], content=2, equality_ids=[1])
    location = build.commit(Manifest([data]), Manifest([keys], content=1, sequence=2))
    first, second = [(await load(local_stores(), location, At(), None)).files.deletes[0] for _ in range(2)]
    assert first == second
    assert hash(first) == hash(second)


async def test_the_cache_forgets_the_oldest_file_and_reads_again_after_a_failure() -> None:
    cache, reads = DeleteCache(bytes_max=100), []

    async def read(name: str, n_bytes: int = 60) -> tuple[str, int]:
        reads.append(name)
        if n_bytes < 0:
            raise CorruptError("damaged")
        return name, n_bytes

    for name in ("a", "a", "b", "a"):
        assert await cache.get(name, partial(read, name)) == name
    assert reads == ["a", "b", "a"]
    with pytest.raises(CorruptError):
        await cache.get("c", lambda: read("c", -1))
    assert await cache.get("c", lambda: read("c")) == "c"


async def test_a_reader_goes_on_when_the_one_it_waited_for_is_cancelled() -> None:
    cache, entered = DeleteCache(), asyncio.Event()

    async def never() -> tuple[str, int]:
        entered.set()
        await asyncio.sleep(60)
        return "never", 1

    async def quick() -> tuple[str, int]:
        return "quick", 1

    first = asyncio.create_task(cache.get("a", never))
    await entered.wait()
    second = asyncio.create_task(cache.get("a", quick))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "quick"


def test_a_vector_with_large_positions_decodes() -> None:
    positions = [0, 5, 1 << 33, (1 << 40) + 7]
    np.testing.assert_array_equal(decode_vector(vector_blob(positions), "v"), positions)
    assert len(decode_vector(vector_blob([]), "v")) == 0


@pytest.mark.parametrize("at", range(0, 40, 3))
def test_a_damaged_vector_is_refused(at: int) -> None:
    blob = bytearray(vector_blob([1, 2, 3]))
    blob[at % len(blob)] ^= 0xFF
    with pytest.raises(CorruptError, match=r"v\.puffin"):
        decode_vector(bytes(blob), "v.puffin")
