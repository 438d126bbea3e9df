"""Parquet footers: read in one request, remembered, and named when damaged."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import CorruptError, FirnlineError, UnsupportedError
from storage.stores import Stores
from storage.tables.footers import FooterCache

pytestmark = pytest.mark.anyio


def parquet(n_columns: int = 2, n_rows: int = 10) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({f"column_{i}": list(range(n_rows)) for i in range(n_columns)}), sink)
    return sink.getvalue()


GOOD = parquet()


async def stores_with(**files: bytes) -> Stores:
    blobs = MemoryBlobs(SystemClock())
    for name, data in files.items():
        await blobs.put(name, data)
    return Stores(lambda _root: blobs)


async def read(stores: Stores, name: str, size: int, cache: FooterCache | None = None) -> int:
    (footer,) = await (cache or FooterCache()).read(stores, [(f"s3://b/{name}", size, "")])
    return int(footer.metadata.num_columns)


@pytest.mark.parametrize(("n_columns", "requests"), [(2, 1), (2_000, 2)])
async def test_a_footer_costs_one_request_and_a_large_one_two(n_columns: int, requests: int) -> None:
    data = parquet(n_columns)
    assert (int.from_bytes(data[-8:-4], "little") > 64 << 10) == (requests == 2)
    stores, cache = await stores_with(a=data), FooterCache()
    for _ in range(3):
        assert await read(stores, "a", len(data), cache) == n_columns
        assert stores.count.requests == requests


async def test_equal_schemas_have_equal_fingerprints() -> None:
    stores = await stores_with(a=parquet(2, 5), b=parquet(2, 50), c=parquet(3))
    files = [
        (f"s3://b/{name}", len(data), "")
        for name, data in [("a", parquet(2, 5)), ("b", parquet(2, 50)), ("c", parquet(3))]
    ]
    one, two, three = await FooterCache().read(stores, files)
    assert one.fingerprint == two.fingerprint != three.fingerprint
    assert one.schema is two.schema


async def test_the_cache_forgets_the_oldest_past_its_bytes() -> None:
    data = parquet(50)
    stores = await stores_with(**{f"f{i}": data for i in range(4)})
    cache = FooterCache(bytes_max=int.from_bytes(data[-8:-4], "little") * 2 + 100)
    for name in ("f0", "f1", "f2", "f2", "f1"):
        await read(stores, name, len(data), cache)
    assert stores.count.requests == 3
    await read(stores, "f0", len(data), cache)
    assert stores.count.requests == 4
    assert len(await cache.read(stores, [(f"s3://b/f{i}", len(data), "") for i in range(4)])) == 4


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "too short"), (b"PAR1", "too short"), (b"PAR1PAR1", "too short"), (b"x" * 100, "does not end as Parquet"),
        (GOOD[:-4], "does not end"), (GOOD[: len(GOOD) // 2], "does not end"),
        (GOOD[:-8] + b"\xff\xff\xff\xffPAR1", "beyond the file"), (GOOD[:-8] + b"\x00\x00\x00\x00PAR1", "damaged"),
        (GOOD[:-60] + b"\xff" * 52 + GOOD[-8:], "damaged"),
    ],
)  # fmt: skip
async def test_a_damaged_footer_is_named_with_its_file(data: bytes, words: str) -> None:
    stores = await stores_with(bad=data)
    with pytest.raises(CorruptError, match=words) as caught:
        await read(stores, "bad", len(data))
    assert caught.value.facts["file"] == "s3://b/bad"


async def test_an_encrypted_file_is_refused_by_name() -> None:
    data = GOOD[:-4] + b"PARE"
    with pytest.raises(UnsupportedError, match="encrypted"):
        await read(await stores_with(bad=data), "bad", len(data))


async def test_a_file_shorter_than_its_listing_is_named() -> None:
    stores = await stores_with(bad=GOOD)
    with pytest.raises(FirnlineError, match="bad"):
        await read(stores, "bad", len(GOOD) + 100_000)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=8))
async def test_flipped_bytes_in_the_footer_read_or_are_an_error_of_ours(flips: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    start = len(GOOD) - 8 - int.from_bytes(GOOD[-8:-4], "little")
    for position, mask in flips:
        data[start + position % (len(GOOD) - start)] ^= mask
    try:
        await read(await stores_with(bad=bytes(data)), "bad", len(data))
    except FirnlineError as error:
        assert error.facts["file"] == "s3://b/bad"


async def test_what_is_held_is_told_without_reading_until_it_is_dropped() -> None:
    stores = await stores_with(a=GOOD, b=GOOD)
    cache = FooterCache(entries_max=1)
    key = ("s3://b/a", len(GOOD), "")
    assert cache.at(*key[:2]) is None
    await cache.read(stores, [key])
    held = cache.at(*key[:2])
    assert held is not None
    assert held.num_rows == 10
    assert cache.at(key[0], 1) is None
    await cache.read(stores, [("s3://b/b", len(GOOD), "")])
    assert cache.at(*key[:2]) is None
