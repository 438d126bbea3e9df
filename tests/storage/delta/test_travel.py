"""Time travel: by modification time of the commits, or by their own timestamps."""

import pytest

from storage.errors import CorruptError, NotFoundError
from tests.support.delta_build import Lake, add, checkpoint, metadata, names, protocol

pytestmark = pytest.mark.anyio

T0 = 1_700_000_000_000
STAMPED = {"delta.enableInCommitTimestamps": "true"}


async def lake_at(*times_ms: int) -> Lake:
    """A table whose version n adds the file n, written at ``times_ms[n]`` after T0."""
    lake = Lake()
    for version, time_ms in enumerate(times_ms):
        lake.clock.at_ms = T0 + time_ms
        await lake.commit(version, *([protocol(), metadata()] if version == 0 else []), add(str(version)))
    return lake


async def version_at(lake: Lake, time_ms: int) -> int:
    snapshot = await lake.load(timestamp_ms=T0 + time_ms)
    assert names(snapshot) == [str(version) for version in range(snapshot.version + 1)]
    return snapshot.version


async def test_the_last_version_committed_at_or_before_the_time_is_read() -> None:
    lake = await lake_at(0, 10, 20)
    assert [await version_at(lake, at) for at in (0, 9, 10, 19, 20, 1000)] == [0, 0, 1, 1, 2, 2]


async def test_times_that_do_not_grow_are_moved_up() -> None:
    lake = await lake_at(100, 40, 40, 200)
    assert [await version_at(lake, at) for at in (100, 101, 102, 199, 200)] == [0, 1, 2, 2, 3]


async def test_a_known_snapshot_does_not_change_the_answer() -> None:
    lake = await lake_at(0, 100, 40, 40)
    for known_version in range(4):
        known = await lake.load(version=known_version)
        for at in (0, 50, 100, 101, 102, 150):
            expected = await version_at(lake, at)
            assert (await lake.load(known, timestamp_ms=T0 + at)).version == expected
    assert (await lake.load()).timestamp_ms == T0 + 102
    assert (await lake.load(known=await lake.load(version=1))).timestamp_ms == T0 + 102


async def test_commits_behind_a_checkpoint_count_for_the_time_of_later_ones() -> None:
    lake = await lake_at(0, 100, 40)
    await lake.log(f"{1:020}.checkpoint.parquet", checkpoint([protocol(), metadata(), add("0"), add("1")]))
    await lake.log("_last_checkpoint", '{"version": 1}')
    lake.clock.at_ms = T0 + 45
    await lake.commit(3, add("3"))
    known = await lake.load()
    for at in (50, 100, 101, 102):
        assert (await lake.load(known, timestamp_ms=T0 + at)).version == await version_at(lake, at)


async def test_a_time_before_the_first_version_names_the_range() -> None:
    lake = await lake_at(0, 10)
    with pytest.raises(NotFoundError, match=r"available=2023-11-14T22:13:20.000\+00:00\.\.2023-11-14T22:13:20.010"):
        await version_at(lake, -1)


async def test_the_known_snapshot_serves_the_latest_time_and_not_an_earlier_one() -> None:
    lake = await lake_at(0, 10, 20)
    known = await lake.load()
    assert await lake.load(known, timestamp_ms=T0 + 25) is known
    assert (await lake.load(known, timestamp_ms=T0 + 15)).version == 1
    lake.clock.at_ms = T0 + 30
    await lake.commit(3, add("3"))
    assert (await lake.load(known, timestamp_ms=T0 + 29)).version == 2
    assert (await lake.load(known, timestamp_ms=T0 + 30)).version == 3


async def test_versions_before_the_oldest_checkpoint_cannot_be_travelled_to() -> None:
    lake = await lake_at(0, 10, 20, 30)
    files = [add(str(version)) for version in range(3)]
    await lake.log(f"{2:020}.checkpoint.parquet", checkpoint([protocol(), metadata(), *files]))
    await lake.delete(f"_delta_log/{0:020}.json")
    assert [await version_at(lake, at) for at in (20, 30)] == [2, 3]
    with pytest.raises(NotFoundError):
        await version_at(lake, 19)


def stamp(time_ms: int) -> dict[str, object]:
    return {"commitInfo": {"inCommitTimestamp": T0 + time_ms, "timestamp": 1}}


async def test_in_commit_timestamps_win_over_modification_times() -> None:
    lake = Lake()
    lake.clock.at_ms = T0 + 10_000_000
    for version, time_ms in enumerate((0, 10, 20, 30, 40)):
        first = [protocol(), metadata(configuration=STAMPED)] if version == 0 else []
        await lake.commit(version, stamp(time_ms), *first, add(str(version)))
    assert [await version_at(lake, at) for at in (0, 9, 10, 25, 30, 40, 99)] == [0, 0, 1, 2, 3, 4, 4]
    assert (await lake.load()).timestamp_ms == T0 + 40
    known = await lake.load(version=3)
    assert known.timestamp_ms == T0 + 30
    assert (await lake.load(known)).timestamp_ms == T0 + 40
    with pytest.raises(NotFoundError, match=r"22:13:20\.000"):
        await version_at(lake, -1)


async def test_versions_before_in_commit_timestamps_were_enabled_keep_their_file_times() -> None:
    lake = await lake_at(0, 10)
    enabled = STAMPED | {"delta.inCommitTimestampEnablementVersion": "2"}
    lake.clock.at_ms = T0 + 10_000_000
    await lake.commit(2, stamp(20), metadata(configuration=enabled), add("2"))
    await lake.commit(3, stamp(30), add("3"))
    assert [await version_at(lake, at) for at in (0, 10, 19, 20, 30)] == [0, 1, 1, 2, 3]
    with pytest.raises(NotFoundError):
        await version_at(lake, -1)


async def test_a_version_read_from_its_checkpoint_alone_has_its_commit_timestamp() -> None:
    lake = Lake()
    await lake.commit(0, stamp(5), protocol(), metadata(configuration=STAMPED), add("0"))
    await lake.log(f"{0:020}.checkpoint.parquet", checkpoint([protocol(), metadata(configuration=STAMPED), add("0")]))
    assert (await lake.load()).timestamp_ms == T0 + 5


async def test_a_promised_timestamp_that_is_missing_is_corrupt() -> None:
    lake = Lake()
    await lake.commit(0, protocol(), metadata(configuration=STAMPED), add("0"))
    await lake.commit(1, add("1"))
    with pytest.raises(CorruptError, match="lacks the timestamp"):
        await version_at(lake, 0)
