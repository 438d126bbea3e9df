"""The contract of `storage.blobs.Blobs`, held to by every backend and wrapper. A new backend is one row of `BLOBS`."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from benchmarks.s3_facade import S3Facade, serve
from storage.blobs import Blobs
from storage.blobs.counted import CountedBlobs
from storage.blobs.local import LocalBlobs
from storage.blobs.memory import MemoryBlobs
from storage.blobs.s3 import S3Blobs
from storage.clock import SystemClock
from storage.counts import Counts
from storage.errors import ConflictError, InvalidError, NotFoundError
from tests.support.faults import CrashBlobs, FlakyBlobs, TwoCoinBlobs
from tests.support.moto import create_bucket, moto_endpoint, moto_options

__all__ = ["moto_endpoint"]

pytestmark = pytest.mark.anyio

Fixture = Callable[[str], object]
Open = Callable[[Fixture], AbstractAsyncContextManager[Blobs]]


@dataclass(frozen=True)
class Backend:
    """How to open a fresh store, and what it cannot do, each with the reason."""

    open: Open
    lacks: dict[str, str] = field(default_factory=dict)


@asynccontextmanager
async def open_memory(_fixture: Fixture) -> AsyncIterator[Blobs]:
    yield MemoryBlobs(SystemClock())


@asynccontextmanager
async def open_counted(_fixture: Fixture) -> AsyncIterator[Blobs]:
    yield CountedBlobs(MemoryBlobs(SystemClock()), Counts(), SystemClock(), "memory")


@asynccontextmanager
async def open_local(fixture: Fixture) -> AsyncIterator[Blobs]:
    yield LocalBlobs(Path(str(fixture("tmp_path"))) / "root", SystemClock())


@asynccontextmanager
async def open_moto(fixture: Fixture) -> AsyncIterator[Blobs]:
    endpoint, bucket = str(fixture("moto_endpoint")), f"conformance-{uuid4().hex}"
    create_bucket(endpoint, bucket)
    yield S3Blobs(bucket, moto_options(endpoint), SystemClock())


@asynccontextmanager
async def open_facade(fixture: Fixture) -> AsyncIterator[Blobs]:
    root = Path(str(fixture("tmp_path")))
    (root / "bucket").mkdir()
    async with serve(S3Facade(root, SystemClock())) as endpoint:
        yield S3Blobs("bucket", moto_options(endpoint), SystemClock())


@asynccontextmanager
async def open_two_coins(_fixture: Fixture) -> AsyncIterator[Blobs]:
    yield TwoCoinBlobs(MemoryBlobs(SystemClock()), 0, p_lost=0, p_silent=0)


@asynccontextmanager
async def open_crash(_fixture: Fixture) -> AsyncIterator[Blobs]:
    yield CrashBlobs(MemoryBlobs(SystemClock()), 0)


@asynccontextmanager
async def open_flaky(_fixture: Fixture) -> AsyncIterator[Blobs]:
    yield FlakyBlobs(MemoryBlobs(SystemClock()), 0)


ONE_NAME = "a file and a folder of one file system cannot have the same name"
NO_SERVER = "nothing serves its blobs over HTTP"

BLOBS: dict[str, Backend] = {
    "memory": Backend(open_memory, {"presign": NO_SERVER}),
    "local": Backend(open_local, {"presign": NO_SERVER, "key_beside_folder": ONE_NAME}),
    "s3 of moto": Backend(open_moto),
    "s3 of the facade": Backend(open_facade, {"key_beside_folder": ONE_NAME}),
    "counted": Backend(open_counted, {"presign": NO_SERVER}),
    "two coins, off": Backend(open_two_coins, {"presign": NO_SERVER}),
    "crash, off": Backend(open_crash, {"presign": NO_SERVER}),
    "flaky, off": Backend(open_flaky, {"presign": NO_SERVER}),
}


@pytest.fixture(params=[pytest.param(name, id=name.replace(" ", "_")) for name in BLOBS])
def backend(request: pytest.FixtureRequest) -> Backend:
    return BLOBS[request.param]


@pytest.fixture
async def blobs(backend: Backend, request: pytest.FixtureRequest) -> AsyncIterator[Blobs]:
    async with backend.open(request.getfixturevalue) as opened:
        yield opened
        await opened.close()


def need(backend: Backend, capability: str) -> None:
    if capability in backend.lacks:
        pytest.skip(backend.lacks[capability])


async def keys_of(blobs: Blobs, prefix: str = "", start_after: str | None = None) -> list[str]:
    return [meta.key async for meta in blobs.list(prefix, start_after=start_after)]


async def test_what_was_put_is_what_get_head_and_list_return(blobs: Blobs) -> None:
    put = await blobs.put("folder/blob", b"content")
    data, got = await blobs.get("folder/blob")
    head = await blobs.head("folder/blob")
    [listed] = [meta async for meta in blobs.list()]
    assert data == b"content"
    assert {(meta.key, meta.size, meta.etag) for meta in (put, got, head, listed)} == {("folder/blob", 7, put.etag)}
    now_ms = SystemClock().now_ms()
    assert all(abs(meta.modified_ms - now_ms) < 60_000 for meta in (put, got, head, listed))


@pytest.mark.parametrize("size", [0, 1, 3 << 20])
async def test_any_size_comes_back_whole(blobs: Blobs, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    await blobs.put("blob", content)
    assert (await blobs.get("blob"))[0] == content
    assert (await blobs.head("blob")).size == size
    assert await keys_of(blobs) == ["blob"]


async def test_a_missing_blob_is_not_found(blobs: Blobs) -> None:
    for call in (
        blobs.get("no/such"),
        blobs.head("no/such"),
        blobs.get_range("no/such", 0, 4),
        blobs.get_range("no/such", 2, 2),
        blobs.get_ranges("no/such", [(0, 4), (9, 12)]),
        blobs.get_ranges("no/such", []),
    ):
        with pytest.raises(NotFoundError, match="no/such"):
            await call


async def test_a_folder_is_not_a_blob(blobs: Blobs) -> None:
    await blobs.put("folder/blob", b"content")
    for call in (blobs.get("folder"), blobs.head("folder"), blobs.get_range("folder", 0, 1)):
        with pytest.raises(NotFoundError):
            await call
    await blobs.delete("folder")
    assert await keys_of(blobs) == ["folder/blob"]


async def test_a_blob_has_nothing_below_it(blobs: Blobs) -> None:
    await blobs.put("blob", b"content")
    with pytest.raises(NotFoundError):
        await blobs.get("blob/below")
    await blobs.delete("blob/below")
    assert await keys_of(blobs, "blob/") == []


async def test_a_blob_may_share_its_name_with_a_folder(blobs: Blobs, backend: Backend) -> None:
    need(backend, "key_beside_folder")
    await blobs.put("name", b"1")
    await blobs.put("name-2", b"2")
    await blobs.put("name/below", b"3")
    assert await keys_of(blobs) == ["name", "name-2", "name/below"]


async def test_where_names_clash_the_put_is_refused_and_changes_nothing(blobs: Blobs, backend: Backend) -> None:
    if "key_beside_folder" not in backend.lacks:
        pytest.skip("its names do not clash")
    await blobs.put("blob", b"1")
    await blobs.put("folder/blob", b"2")
    for key in ("blob/below", "folder"):
        for if_absent in (False, True):
            with pytest.raises(InvalidError):
                await blobs.put(key, b"3", if_absent=if_absent)
    assert await keys_of(blobs) == ["blob", "folder/blob"]


async def test_put_if_absent_leaves_what_is_there(blobs: Blobs) -> None:
    first = await blobs.put("blob", b"first", if_absent=True)
    with pytest.raises(ConflictError):
        await blobs.put("blob", b"second", if_absent=True)
    with pytest.raises(ConflictError):
        await blobs.put("blob", b"first", if_absent=True)
    assert (await blobs.get("blob"))[0] == b"first"
    assert (await blobs.head("blob")).etag == first.etag


async def test_of_concurrent_puts_if_absent_exactly_one_wins(blobs: Blobs) -> None:
    async def attempt(n: int) -> int | None:
        try:
            await blobs.put("new/folder/blob", b"%d" % n, if_absent=True)
        except ConflictError:
            return None
        return n

    winners = [n for n in await asyncio.gather(*map(attempt, range(16))) if n is not None]
    assert len(winners) == 1
    assert (await blobs.get("new/folder/blob"))[0] == b"%d" % winners[0]


async def test_put_if_match_replaces_only_the_version_named(blobs: Blobs) -> None:
    first = await blobs.put("head", b"1")
    second = await blobs.put("head", b"2", if_match=first.etag)
    assert second.etag != first.etag
    with pytest.raises(ConflictError):
        await blobs.put("head", b"3", if_match=first.etag)
    assert (await blobs.get("head"))[0] == b"2"
    [listed] = [meta async for meta in blobs.list("head")]
    await blobs.put("head", b"4", if_match=listed.etag)
    assert (await blobs.get("head"))[0] == b"4"


async def test_put_if_match_of_a_missing_blob_is_a_conflict(blobs: Blobs) -> None:
    gone = await blobs.put("head", b"1")
    await blobs.delete("head")
    with pytest.raises(ConflictError):
        await blobs.put("head", b"2", if_match=gone.etag)
    assert await keys_of(blobs) == []


async def test_concurrent_compare_and_swaps_lose_no_update(blobs: Blobs) -> None:
    await blobs.put("counter", b"0")

    async def increment() -> None:
        while True:
            data, meta = await blobs.get("counter")
            try:
                await blobs.put("counter", b"%d" % (int(data) + 1), if_match=meta.etag)
            except ConflictError:
                continue
            return

    await asyncio.gather(*(increment() for _ in range(12)))
    assert (await blobs.get("counter"))[0] == b"12"


async def test_an_etag_never_stands_for_two_contents(blobs: Blobs) -> None:
    etags = set()
    for n in range(20):
        etags.add((await blobs.put("head", b"%02d" % n)).etag)
        assert (await blobs.head("head")).etag in etags
        if n % 5 == 4:
            await blobs.delete("head")
    assert len(etags) == 20


async def test_a_put_takes_one_condition_at_most(blobs: Blobs) -> None:
    with pytest.raises(InvalidError):
        await blobs.put("blob", b"", if_absent=True, if_match="etag")


@pytest.mark.parametrize("start", [0, 3, 10, 12])
@pytest.mark.parametrize("limit", [3, 10, 15])
async def test_a_range_is_half_open_and_cut_at_the_end(blobs: Blobs, start: int, limit: int) -> None:
    content = b"0123456789"
    await blobs.put("blob", content)
    if start > limit:
        with pytest.raises(InvalidError):
            await blobs.get_range("blob", start, limit)
    else:
        assert await blobs.get_range("blob", start, limit) == content[start:limit]


async def test_a_range_of_an_empty_blob_is_empty(blobs: Blobs) -> None:
    await blobs.put("blob", b"")
    assert await blobs.get_range("blob", 0, 10) == b""


async def test_ranges_come_back_in_the_order_asked(blobs: Blobs) -> None:
    content = bytes(range(256)) * (3 << 12)
    size = len(content)
    await blobs.put("blob", content)
    ranges = [(size - 5, size + 5), (0, 10), (5, 7), (0, 10), (4, 4), (size // 2, size // 2 + 3), (size + 9, size + 10)]
    assert await blobs.get_ranges("blob", ranges) == [content[start:limit] for start, limit in ranges]
    assert await blobs.get_ranges("blob", []) == []
    with pytest.raises(InvalidError):
        await blobs.get_ranges("blob", [(0, 1), (-1, 1)])


async def test_ranges_are_read_of_the_blob_with_the_etag_named_or_not_at_all(blobs: Blobs) -> None:
    content = bytes(range(256)) * (3 << 12)
    size = len(content)
    first = await blobs.put("blob", content)
    ranges = [(0, 10), (12, 20), (4, 4), (size - 5, size + 5), (size + 9, size + 10)]
    for exact in (False, True):
        parts = await blobs.get_ranges("blob", ranges, if_match=first.etag, exact=exact)
        assert parts == [content[start:limit] for start, limit in ranges]
        assert await blobs.get_ranges("blob", ranges, exact=exact) == parts
    second = await blobs.put("blob", content[::-1])
    for exact in (False, True):
        for asked in (ranges, [(0, 10)], [(size + 9, size + 10)]):
            with pytest.raises(ConflictError):
                await blobs.get_ranges("blob", asked, if_match=first.etag, exact=exact)
        [part] = await blobs.get_ranges("blob", [(0, 10)], if_match=second.etag, exact=exact)
        assert part == content[:-11:-1]
        with pytest.raises(NotFoundError):
            await blobs.get_ranges("no/such", ranges, if_match=first.etag, exact=exact)


async def test_a_range_comes_with_the_etag_of_the_blob_it_was_read_of(blobs: Blobs) -> None:
    first = await blobs.put("blob", b"0123456789")
    for start, limit in ((0, 4), (8, 12), (3, 3), (10, 12)):
        read = await blobs.get_range_with_etag("blob", start, limit, if_match=first.etag)
        assert read == (b"0123456789"[start:limit], first.etag)
    second = await blobs.put("blob", b"9876543210")
    assert await blobs.get_range_with_etag("blob", 0, 2) == (b"98", second.etag)
    for start, limit in ((0, 4), (3, 3), (10, 12)):
        with pytest.raises(ConflictError):
            await blobs.get_range_with_etag("blob", start, limit, if_match=first.etag)
    with pytest.raises(NotFoundError):
        await blobs.get_range_with_etag("no/such", 0, 4)


ODD_KEYS = [
    "100%",
    "a b",
    "a%20b",
    "a+b",
    "a&b;c",
    "a:b",
    "a=1/b=__HIVE_DEFAULT_PARTITION__/c",
    "a#b?c=d",
    "back\\slash",
    "~tilde!'()*",
    '"quoted"<>{}[]|^`',
    "...",
    ".hidden",
    "-",
    "é/ü/日本",
    "z\u0301",
    "\U0001f600",
    "\ufffd",
]


async def test_odd_names_come_back_as_they_were(blobs: Blobs) -> None:
    for key in ODD_KEYS:
        await blobs.put(key, key.encode())
    for key in ODD_KEYS:
        assert (await blobs.get(key))[0] == key.encode()
    assert await keys_of(blobs) == sorted(ODD_KEYS, key=str.encode)
    for key in ODD_KEYS:
        await blobs.delete(key)
    assert await keys_of(blobs) == []


@pytest.mark.parametrize(
    "key", ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\x00b", "a\nb", "a\x7f", "\udcff", "k" * 1025]
)
async def test_a_name_that_some_backend_could_not_hold_is_refused_by_all(blobs: Blobs, key: str) -> None:
    for call in (
        blobs.get(key),
        blobs.get_range(key, 0, 1),
        blobs.get_ranges(key, []),
        blobs.head(key),
        blobs.put(key, b""),
        blobs.delete(key),
        blobs.presign(key, expires_s=60),
    ):
        with pytest.raises(InvalidError):
            await call


LISTED = ["a", "a-b", "b/0", "b/00/x", "b/01", "b/1", "b/10", "b0", "b0/x", "c/\ue000", "c/\U00010000", "c/é"]


@pytest.fixture
async def listed(blobs: Blobs, backend: Backend) -> list[str]:
    keys = [key for key in LISTED if key != "b0" or "key_beside_folder" not in backend.lacks]
    for key in reversed(keys):
        await blobs.put(key, b"content")
    return sorted(keys, key=str.encode)


@pytest.mark.parametrize(
    "prefix", ["", "a", "b", "b/", "b/0", "b/00", "b/00/", "b/1", "c/", "c/\ue000", "b0", "d", "0"]
)
async def test_a_listing_has_the_keys_with_the_prefix_in_utf8_order(
    blobs: Blobs, listed: list[str], prefix: str
) -> None:
    assert await keys_of(blobs, prefix) == [key for key in listed if key.startswith(prefix)]


@pytest.mark.parametrize("start_after", ["0", "a", "a.", "b/", "b/00", "b/00/x", "b/00/y", "b/05", "b/~", "c/é", "z"])
async def test_a_listing_starts_behind_a_key(blobs: Blobs, listed: list[str], start_after: str) -> None:
    after = [key for key in listed if key.encode() > start_after.encode()]
    assert await keys_of(blobs, "", start_after) == after
    assert await keys_of(blobs, "b/", start_after) == [key for key in after if key.startswith("b/")]
    assert await keys_of(blobs, "b/0", start_after) == [key for key in after if key.startswith("b/0")]


@pytest.mark.parametrize("prefix", ["/", "a//", "../", "a/../", "a\x00"])
async def test_a_prefix_that_no_key_can_have_is_refused(blobs: Blobs, prefix: str) -> None:
    with pytest.raises(InvalidError):
        await keys_of(blobs, prefix)


async def test_a_listing_that_is_left_early_leaves_the_store_usable(blobs: Blobs, listed: list[str]) -> None:
    async for meta in blobs.list():
        assert meta.key == listed[0]
        break
    assert await keys_of(blobs) == listed


async def test_a_deleted_blob_is_gone_and_can_be_put_again(blobs: Blobs) -> None:
    await blobs.put("blob", b"1", if_absent=True)
    await blobs.delete("blob")
    await blobs.delete("blob")
    with pytest.raises(NotFoundError):
        await blobs.get("blob")
    await blobs.put("blob", b"2", if_absent=True)
    assert (await blobs.get("blob"))[0] == b"2"


async def test_a_presigned_url_reads_the_blob(blobs: Blobs, backend: Backend) -> None:
    await blobs.put("a folder/blob%=é", b"content")
    url = await blobs.presign("a folder/blob%=é", expires_s=60)
    assert (url is None) == ("presign" in backend.lacks)
    if url is not None:
        assert await asyncio.to_thread(fetch, url) == b"content"


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as response:
        content: bytes = response.read()
        return content
