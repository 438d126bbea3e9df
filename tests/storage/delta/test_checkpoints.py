"""Every kind of checkpoint reads as the commits that it stands for."""

import json
import time

import pyarrow as pa
import pytest

from storage.errors import CorruptError, NotFoundError
from storage.tables.delta import load
from storage.tables.snapshot import At
from tests.support.delta_build import (
    CHECKPOINT_SCHEMA,
    TABLE,
    Lake,
    add,
    checkpoint,
    column,
    inline_vector,
    metadata,
    names,
    parquet,
    protocol,
    remove,
)

pytestmark = pytest.mark.anyio

NAME = f"{2:020}.checkpoint"
V2 = protocol(3, 7, ["v2Checkpoint", "deletionVectors"])
STATE = [
    protocol(),
    metadata(configuration={"k": "v"}),
    {"txn": {"appId": "a", "version": 4, "lastUpdated": 1}},
    {"domainMetadata": {"domain": "d", "configuration": "c", "removed": False}},
    add("a", stats={"numRecords": 5, "minValues": {"id": 1}, "maxValues": {"id": 9}, "nullCount": {"id": 0}}),
    add("b%20c"),
    remove("gone"),
]


async def lake_with_tail() -> Lake:
    """Commits 0 to 2 are cleaned up (a checkpoint at 2 is to be written); commit 3 adds a file."""
    lake = Lake()
    await lake.commit(3, add("d"))
    return lake


def check(snapshot: object) -> None:
    assert names(snapshot) == ["a", "b c", "d"]
    assert snapshot.properties == {"k": "v"}
    assert snapshot.state.transactions == {"a": 4}
    assert snapshot.state.domains == {"d": "c"}
    rows = dict(zip(snapshot.files.paths, snapshot.files.n_rows.tolist(), strict=True))
    assert rows[f"{TABLE}/a"] == 5
    assert snapshot.files.stats("id").maximum.to_pylist().count(9) == 1


@pytest.mark.parametrize("hint", [None, '{"version": 2, "size": 7}', "{", '{"version": "2"}', '{"version": 99}', "[2]"])
async def test_a_classic_checkpoint_is_read_whatever_the_hint_says(hint: str | None) -> None:
    lake = await lake_with_tail()
    await lake.log(f"{NAME}.parquet", checkpoint(STATE))
    if hint is not None:
        await lake.log("_last_checkpoint", hint)
    check(await lake.load())
    with pytest.raises(NotFoundError, match=r"available=2\.\.3"):
        await lake.load(version=1)
    assert names(await lake.load(version=2)) == ["a", "b c"]


async def test_a_first_load_takes_hint_listing_checkpoint_and_commits() -> None:
    lake = await lake_with_tail()
    await lake.log(f"{NAME}.parquet", checkpoint(STATE))
    await lake.log("_last_checkpoint", '{"version": 2}')
    stores = lake.stores()
    await load(stores, TABLE, At(), None)
    assert stores.count.requests == 4


async def test_a_multi_part_checkpoint_needs_all_its_parts() -> None:
    lake = await lake_with_tail()
    for part, actions in enumerate((STATE[:5], STATE[5:]), start=1):
        await lake.log(f"{NAME}.{part:010}.{2:010}.parquet", checkpoint(actions))
    await lake.log(f"{NAME}.{1:010}.{3:010}.parquet", b"never finished")
    check(await lake.load())
    await lake.delete(f"_delta_log/{NAME}.{2:010}.{2:010}.parquet")
    with pytest.raises(CorruptError, match="missing_version=0"):
        await lake.load()


async def test_an_incomplete_or_empty_checkpoint_is_passed_over() -> None:
    lake = await lake_with_tail()
    await lake.log(f"{NAME}.parquet", checkpoint(STATE))
    await lake.log(f"{3:020}.checkpoint.parquet", b"")
    await lake.log(f"{3:020}.checkpoint.{1:010}.{2:010}.parquet", b"half")
    await lake.log("_last_checkpoint", '{"version": 3, "parts": 2}')
    check(await lake.load())


@pytest.mark.parametrize("suffix", ["json", "parquet"])
@pytest.mark.parametrize("with_sidecars", [False, True])
async def test_a_v2_checkpoint_reads_with_and_without_sidecars(suffix: str, with_sidecars: bool) -> None:
    lake = await lake_with_tail()
    small, files = [V2, *STATE[1:4]], STATE[4:]
    top = [{"checkpointMetadata": {"version": 2}}, *small] if suffix == "json" else small
    if with_sidecars:
        for number, action in enumerate(files):
            await lake.log(f"_sidecars/{number}%.parquet", checkpoint([action]))
            path = f"{number}%25.parquet" if number else f"{TABLE}/_delta_log/_sidecars/0%25.parquet"
            top.append({"sidecar": {"path": path, "sizeInBytes": 1, "modificationTime": 1}})
    else:
        top += files
    data = "\n".join(map(json.dumps, top)) if suffix == "json" else checkpoint(top)
    await lake.log(f"{NAME}.80a083e8-7026-4e79-81be-64bd76c43a11.{suffix}", data)
    check(await lake.load())


async def test_sidecars_may_hang_on_a_checkpoint_of_classic_name() -> None:
    lake = await lake_with_tail()
    await lake.log("_sidecars/s.parquet", checkpoint(STATE[4:]))
    sidecar = {"sidecar": {"path": "s.parquet", "sizeInBytes": 1, "modificationTime": 1}}
    await lake.log(f"{NAME}.parquet", checkpoint([V2, *STATE[1:4], sidecar]))
    check(await lake.load())
    await lake.delete("_delta_log/_sidecars/s.parquet")
    with pytest.raises(CorruptError, match=r"_sidecars/s\.parquet"):
        await lake.load()


async def test_files_of_a_json_checkpoint_are_removed_by_later_commits() -> None:
    lake = await lake_with_tail()
    await lake.log(f"{NAME}.uid.json", "\n".join(map(json.dumps, [V2, *STATE[1:]])))
    await lake.commit(4, remove("a"))
    assert names(await lake.load()) == ["b c", "d"]


async def test_deletion_vectors_of_a_checkpoint_are_found_and_replaced() -> None:
    old, new = inline_vector([3]), inline_vector([3, 4])
    lake = await lake_with_tail()
    state = [V2, *STATE[1:4], add("a", vector=old), add("b%20c"), add("x", vector=old)]
    await lake.log(f"{NAME}.parquet", checkpoint(state))
    known = await lake.load()
    assert sorted(known.files.paths[index][-1] for index in known.files.deletes) == ["a", "x"]
    await lake.commit(4, remove("a", vector=old), add("a", vector=new))
    for snapshot in (await lake.load(), await lake.load(known)):
        assert names(snapshot) == ["a", "b c", "d", "x"]
        by_file = {snapshot.files.paths[index][-1]: one for index, one in snapshot.files.deletes.items()}
        assert {name: one.vector.cardinality for name, one in by_file.items()} == {"a": 2, "x": 1}


async def test_statistics_of_a_checkpoint_may_be_a_struct() -> None:
    bounds = pa.struct([("id", pa.int32()), ("when", pa.timestamp("us", "UTC"))])
    parsed = pa.struct(
        [
            ("numRecords", pa.int64()),
            ("tightBounds", pa.bool_()),
            ("minValues", bounds),
            ("maxValues", bounds),
            ("nullCount", pa.struct([("id", pa.int64()), ("when", pa.int64())])),
        ]
    )
    fields = [field for field in CHECKPOINT_SCHEMA.field("add").type if field.name != "stats"]
    schema = CHECKPOINT_SCHEMA.set(
        CHECKPOINT_SCHEMA.get_field_index("add"),
        pa.field("add", pa.struct([*fields, pa.field("stats_parsed", parsed)])),
    )
    low, high = {"id": 1, "when": 0}, {"id": 7, "when": 1_000_000}
    file = add("a")
    file["add"]["stats_parsed"] = {
        "numRecords": 4,
        "tightBounds": False,
        "minValues": low,
        "maxValues": high,
        "nullCount": {"id": 2, "when": 0},
    }
    lake = await lake_with_tail()
    actions = [protocol(), metadata(column("id"), column("when", "timestamp")), file, add("b")]
    await lake.log(f"{NAME}.parquet", checkpoint(actions, schema))
    for _ in range(2):
        snapshot = await lake.load()
        assert snapshot.files.n_rows.tolist() == [4, -1, -1]
        stats = snapshot.files.stats("id")
        assert stats.minimum.to_pylist() == [1, None, None]
        assert stats.maximum.type == pa.int64()
        assert stats.null_count.to_pylist() == [None, None, None]
        when = snapshot.files.stats("when")
        assert when.maximum.cast(pa.int64()).to_pylist() == [1_000_999, None, None]
        assert when.null_count.to_pylist() == [0, None, None]


@pytest.mark.parametrize("data", [b"PAR1 not really PAR1", parquet(pa.table({"add": [1]})), b"\x00" * 100])
async def test_a_damaged_checkpoint_names_the_file(data: bytes) -> None:
    lake = await lake_with_tail()
    await lake.log(f"{NAME}.parquet", data)
    with pytest.raises(CorruptError, match=rf"{NAME}\.parquet|missing=protocol"):
        await lake.load()


async def test_a_checkpoint_without_protocol_is_corrupt_even_where_commits_have_it() -> None:
    lake = await lake_with_tail()
    await lake.commit(0, protocol(), metadata())
    await lake.log(f"{NAME}.parquet", checkpoint(STATE[1:]))
    with pytest.raises(CorruptError, match="missing=protocol"):
        await lake.load()


async def test_a_checkpoint_alone_makes_a_version() -> None:
    lake = Lake()
    await lake.log(f"{NAME}.parquet", checkpoint(STATE))
    snapshot = await lake.load()
    assert (snapshot.version, names(snapshot)) == (2, ["a", "b c"])
    assert await lake.load(snapshot) is snapshot


async def test_far_behind_a_newer_checkpoint_is_the_shorter_way() -> None:
    lake = Lake()
    await lake.commit(0, protocol(), metadata(), add("f0"))
    known = await lake.load()
    for version in range(1, 80):
        await lake.commit(version, add(f"f{version}"))
    files = [add(f"f{version}") for version in range(79)]
    await lake.log(f"{78:020}.checkpoint.parquet", checkpoint([protocol(), metadata(), *files]))
    await lake.log("_last_checkpoint", '{"version": 78}')
    stores = lake.stores()
    snapshot = await load(stores, TABLE, At(), known)
    assert (snapshot.version, len(snapshot.files)) == (79, 80)
    assert stores.count.requests < 8


async def test_a_hundred_thousand_files_stay_columns() -> None:
    lake = Lake()
    n_files = 100_000
    stats = json.dumps({"numRecords": 1, "minValues": {"id": 1}, "maxValues": {"id": 2}, "nullCount": {"id": 0}})
    kinds = CHECKPOINT_SCHEMA.field("add").type
    adds = pa.StructArray.from_arrays(
        [
            pa.array([f"part-{number:08}.parquet" for number in range(n_files)]),
            pa.array([[]] * n_files, kinds.field("partitionValues").type),
            pa.array([1] * n_files, pa.int64()),
            pa.array([stats] * n_files),
        ],
        fields=[kinds.field(name) for name in ("path", "partitionValues", "size", "stats")],
    )
    await lake.commit(0, protocol(), metadata())
    files = parquet(pa.table({"add": adds}))
    head = checkpoint([protocol(), metadata()], CHECKPOINT_SCHEMA)
    await lake.log(f"{1:020}.checkpoint.{1:010}.{2:010}.parquet", head)
    await lake.log(f"{1:020}.checkpoint.{2:010}.{2:010}.parquet", files)
    known = await lake.load()
    assert known.files.stats("id").minimum[n_files - 1].as_py() == 1
    await lake.commit(2, remove("part-00000007.parquet"), add("new"))
    started = time.process_time()
    newer = await lake.load(known)
    assert len(newer.files.stats("id").minimum) == n_files
    assert time.process_time() - started < 2.0
    assert len(newer.files) == n_files
    assert newer.files.paths[7] == f"{TABLE}/part-00000008.parquet"
