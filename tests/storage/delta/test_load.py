"""Replay of commits, incremental loads, and what a load asks of the store."""

import json

import pytest

from storage.errors import CorruptError, InvalidError, NotFoundError, UnsupportedError
from storage.tables.delta import load
from storage.tables.snapshot import At
from tests.support.delta_build import (
    TABLE,
    Lake,
    add,
    column,
    inline_vector,
    metadata,
    names,
    protocol,
    remove,
)

pytestmark = pytest.mark.anyio


async def lake_of(*commits: list[dict[str, object]]) -> Lake:
    lake = Lake()
    await lake.commit(0, protocol(), metadata(), *(commits[0] if commits else []))
    for version, actions in enumerate(commits[1:], start=1):
        await lake.commit(version, *actions)
    return lake


async def test_the_live_files_are_those_added_and_not_removed() -> None:
    lake = await lake_of([add("a"), add("b")], [remove("a"), add("c")], [remove("c"), add("a")])
    assert names(await lake.load()) == ["a", "b"]
    assert names(await lake.load(version=1)) == ["b", "c"]
    assert names(await lake.load(version=0)) == ["a", "b"]


async def test_a_file_added_again_is_listed_once_with_its_newest_facts() -> None:
    lake = await lake_of([add("a", stats={"numRecords": 1})], [add("a", stats={"numRecords": 2})])
    snapshot = await lake.load()
    assert names(snapshot) == ["a"]
    assert snapshot.files.n_rows.tolist() == [2]


async def test_a_file_is_known_by_its_location_however_it_is_written() -> None:
    lake = await lake_of([add("a%20b"), add("s3a://lake/t/c"), add("d/../e")])
    await lake.commit(1, remove("s3://lake/t/a%20b"), remove("c"), remove("e"))
    assert names(await lake.load(version=0)) == ["a b", "c", "e"]
    assert names(await lake.load()) == []


async def test_deletion_vectors_make_different_files_of_one_path() -> None:
    first, second = inline_vector([1]), inline_vector([1, 2])
    lake = await lake_of([add("a")], [remove("a"), add("a", vector=first)])
    await lake.commit(2, remove("a", vector=first), add("a", vector=second))
    snapshot = await lake.load()
    assert names(snapshot) == ["a"]
    loaded = await snapshot.files.deletes[0].load(lake.stores())
    assert loaded.positions.tolist() == [1, 2]
    await lake.commit(3, remove("a", vector=second))
    assert names(await lake.load()) == []
    assert names(await lake.load(snapshot)) == []


async def test_nothing_new_costs_one_request_and_returns_the_known_snapshot() -> None:
    lake = await lake_of([add("a")], [add("b")])
    known = await lake.load()
    for at in (At(), At(version=1), At(timestamp_ms=lake.clock.at_ms + 5_000)):
        stores = lake.stores()
        assert await load(stores, TABLE, at, known) is known
        assert stores.count.requests == 1


async def test_new_commits_are_all_that_an_incremental_load_reads() -> None:
    lake = await lake_of([add("a", stats={"numRecords": 3, "minValues": {"id": 1}})], [add("b")])
    known = await lake.load()
    await lake.commit(2, remove("a"), add("c"))
    await lake.commit(3, add("d"))
    stores = lake.stores()
    snapshot = await load(stores, TABLE, At(), known)
    assert stores.count.requests == 3
    assert names(snapshot) == ["b", "c", "d"]
    assert names(known) == ["a", "b"]
    assert snapshot.version == 3
    assert snapshot.etag != known.etag
    assert names(await lake.load(known, version=2)) == ["b", "c"]


async def test_an_incremental_load_sees_a_new_schema_and_protocol() -> None:
    lake = await lake_of([add("a")])
    known = await lake.load()
    await lake.commit(1, metadata(column("id"), column("more", "string")))
    assert (await lake.load(known)).schema.names == ["id", "more"]
    await lake.commit(2, protocol(3, 7, ["someday"]))
    with pytest.raises(UnsupportedError, match="someday"):
        await lake.load(known)


async def test_many_increments_equal_one_load() -> None:
    lake = await lake_of([add("f0")])
    known = await lake.load()
    for version in range(1, 40):
        gone = [remove(f"f{version - 5}")] if version % 3 == 0 and version >= 5 else []
        await lake.commit(
            version, add(f"f{version}", stats={"numRecords": version, "minValues": {"id": version}}), *gone
        )
        known = await lake.load(known)
        if version % 7 == 0:
            assert known.files.stats("id") is not None
    fresh = await lake.load()
    facts = [
        sorted(zip(one.files.paths, one.files.n_rows.tolist(), one.files.stats("id").minimum.to_pylist(), strict=True))
        for one in (known, fresh)
    ]
    assert facts[0] == facts[1]
    assert len(known.state.batches) < 10


async def test_an_earlier_version_than_the_known_one_is_loaded_afresh() -> None:
    lake = await lake_of([add("a")], [add("b")])
    known = await lake.load()
    assert names(await lake.load(known, version=0)) == ["a"]


async def test_a_table_made_anew_in_the_same_place_is_noticed() -> None:
    lake = await lake_of([add("a")], [add("b")])
    known = await lake.load()
    for version in (0, 1):
        await lake.delete(f"_delta_log/{version:020}.json")
    await lake.commit(0, protocol(), metadata(table_id="other"), add("z"))
    assert names(await lake.load(known)) == ["z"]
    await lake.commit(1, add("y"))
    assert names(await lake.load(known)) == ["y", "z"]
    assert names(await lake.load(known, version=1)) == ["y", "z"]


async def test_what_is_not_a_table_is_not_found() -> None:
    lake = Lake()
    with pytest.raises(NotFoundError, match="no delta table"):
        await lake.load()
    await lake.log("_last_checkpoint", '{"version": 3}')
    await lake.put("data.parquet", b"x")
    with pytest.raises(NotFoundError, match="no delta table"):
        await lake.load()


async def test_a_version_out_of_range_names_the_available_ones() -> None:
    lake = await lake_of([add("a")], [add("b")])
    for version in (2, -1):
        with pytest.raises(NotFoundError, match=r"available=0\.\.1"):
            await lake.load(version=version)
        with pytest.raises(NotFoundError, match=r"available=0\.\.1"):
            await lake.load(await lake.load(), version=version)


async def test_a_branch_is_refused() -> None:
    lake = await lake_of([])
    with pytest.raises(InvalidError, match="no branches"):
        await load(lake.stores(), TABLE, At(ref="main"), None)


async def test_a_gap_names_the_missing_version() -> None:
    lake = await lake_of([add("a")], [add("b")], [add("c")], [add("d")])
    known = await lake.load(version=1)
    await lake.delete(f"_delta_log/{2:020}.json")
    for remembered in (None, known):
        with pytest.raises(CorruptError, match="missing_version=2"):
            await lake.load(remembered)
    assert names(await lake.load(version=1)) == ["a", "b"]
    await lake.delete(f"_delta_log/{0:020}.json")
    with pytest.raises(CorruptError, match="missing_version=0"):
        await lake.load(version=1)


@pytest.mark.parametrize("missing", ["protocol", "metaData"])
async def test_a_log_without_protocol_or_metadata_is_corrupt(missing: str) -> None:
    lake = Lake()
    await lake.commit(0, metadata() if missing == "protocol" else protocol(), add("a"))
    with pytest.raises(CorruptError, match=f"missing={missing}"):
        await lake.load()


@pytest.mark.parametrize(
    "line",
    [
        '{"add": {"path": "x"',
        "[]",
        "7",
        '{"add": {}}',
        '{"add": []}',
        '{"add": {"path": "x"}}',
        '{"add": {"path": 5, "size": 1}}',
        '{"add": {"path": "x", "size": "1"}}',
        '{"add": {"path": "x", "size": 1e30}}',
        '{"add": {"path": "x", "size": 1, "partitionValues": {"p": 1}}}',
        '{"add": {"path": "x", "size": 1, "partitionValues": [1]}}',
        '{"add": {"path": "x\\ud800", "size": 1}}',
        '{"add": {"path": "x", "size": 1, "deletionVector": {"storageType": "u"}}}',
        '{"add": {"path": "x", "size": 1, "deletionVector": "u"}}',
        '{"remove": {}}',
        '{"protocol": {"minReaderVersion": "1"}}',
        '{"metaData": {"schemaString": 5}}',
        '{"metaData": {"schemaString": "{}", "configuration": 3}}',
        '{"txn": {"appId": "a"}}',
        "\x00",
        "[" * 100_000,
    ],
)
async def test_a_line_that_is_no_action_names_file_and_line(line: str) -> None:
    lake = await lake_of([add("a")])
    await lake.log(f"{1:020}.json", json.dumps(add("b")) + "\n" + line + "\n")
    with pytest.raises(CorruptError, match=r"00001\.json line=2"):
        await lake.load()


async def test_a_commit_that_is_not_utf8_or_empty_is_corrupt() -> None:
    for data in (b"", b'{"add": {"path": "\xff", "size": 1}}'):
        lake = await lake_of([add("a")])
        await lake.log(f"{1:020}.json", data)
        with pytest.raises(CorruptError, match=r"00001\.json"):
            await lake.load()


async def test_what_a_later_writer_adds_to_the_log_is_skipped() -> None:
    lake = await lake_of([add("a")])
    extra = {"someAction": {"x": 1}}
    richer = add("b")
    richer["add"]["futureField"] = {"deep": [1]}
    await lake.commit(1, {"commitInfo": {"operationParameters": {"a": [1, {"b": None}]}}}, extra, richer)
    for name in (f"{0:020}.crc", f"{0:020}.{1:020}.compacted.json", "_sidecars/x.parquet", "1.json", "temp", ".x.tmp"):
        await lake.log(name, b"junk")
    assert names(await lake.load()) == ["a", "b"]


async def test_transactions_domains_and_properties_are_kept() -> None:
    lake = await lake_of([add("a")])
    await lake.commit(1, {"txn": {"appId": "wal-0", "version": 7, "lastUpdated": 1}})
    domain = {"domain": "delta.clustering", "configuration": "{}", "removed": False}
    await lake.commit(2, {"txn": {"appId": "wal-1", "version": 1}}, {"domainMetadata": domain})
    known = await lake.load()
    assert known.state.transactions == {"wal-0": 7, "wal-1": 1}
    assert known.state.domains == {"delta.clustering": "{}"}
    await lake.commit(3, {"txn": {"appId": "wal-0", "version": 8}}, {"domainMetadata": domain | {"removed": True}})
    later = await lake.load(known)
    assert later.state.transactions == {"wal-0": 8, "wal-1": 1}
    assert later.state.domains == {}
    await lake.commit(4, metadata(configuration={"delta.appendOnly": "true"}))
    assert (await lake.load(later)).properties == {"delta.appendOnly": "true"}


async def test_an_absolute_path_without_a_scheme_is_refused() -> None:
    lake = await lake_of([add("/elsewhere/a.parquet")])
    with pytest.raises(UnsupportedError, match="absolute path without a scheme"):
        await lake.load()


async def test_a_file_in_an_unknown_store_is_refused_while_it_is_live() -> None:
    lake = await lake_of([add("abfss://c@host/a.parquet")])
    with pytest.raises(UnsupportedError, match="abfss"):
        await lake.load()
    await lake.commit(1, remove("abfss://c@host/a.parquet"), add("b"))
    assert names(await lake.load()) == ["b"]


async def test_hundreds_of_commits_are_replayed_in_order() -> None:
    lake = await lake_of(*([[add("f0")]] + [[remove(f"f{v - 1}"), add(f"f{v}")] for v in range(1, 150)]))
    assert names(await lake.load()) == ["f149"]


async def test_a_table_without_files_has_empty_columns() -> None:
    lake = Lake()
    await lake.commit(0, protocol(), metadata(column("id"), column("p", "date"), partitions=["p"]))
    snapshot = await lake.load()
    assert len(snapshot.files) == 0
    assert len(snapshot.files.partitions["p"]) == 0
    assert snapshot.files.sizes.tolist() == []
    assert snapshot.files.stats("id") is None
