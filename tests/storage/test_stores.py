"""Locations and what may be reached."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.blobs.local import LocalBlobs
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import ForbiddenError, InvalidError
from storage.stores import AccessPolicy, Stores, join, normalize


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("/a/b", "file:///a/b"), ("/a//b/./c/../d/", "file:///a/b/d"), ("//a", "file:///a"), ("/..", "file:///"),
        ("file:/a", "file:///a"), ("file:///a b%20", "file:///a b%20"), ("FILE:///A", "file:///A"), ("s3://b", "s3://b"),
        ("s3://b/", "s3://b"), ("s3://b/k//x/", "s3://b/k/x"), ("s3a://b/k", "s3://b/k"), ("S3N://b/k", "s3://b/k"),
        ("s3://b/../c/k", "s3://b/c/k"), ("s3://b/é ?#", "s3://b/é ?#"),
    ],
)  # fmt: skip
def test_a_location_has_one_form(url: str, location: str) -> None:
    assert normalize(url) == location
    assert normalize(location) == location


def test_a_relative_path_is_taken_from_its_base_or_the_working_directory() -> None:
    assert normalize("a/b", base="s3://b/x") == "s3://b/x/a/b"
    assert normalize("a") == f"file://{Path.cwd()}/a"


@pytest.mark.parametrize(
    "url", ["", "http://x/y", "https://x/y", "ftp://x/y", "s3://", "s3:///k", "gs://b/k", "/a\x00b", "s3://b/\x00"]
)
def test_what_is_no_location_is_refused(url: str) -> None:
    with pytest.raises(InvalidError):
        normalize(url)


def test_parts_are_joined_and_never_leave_the_authority() -> None:
    assert join("s3://b/x", "y", "z") == "s3://b/x/y/z"
    assert join("s3://b/x", "../../../c") == "s3://b/c"
    assert join("s3://b", "k") == "s3://b/k"
    assert join("file:///a", "../b") == "file:///b"


@given(st.text(alphabet="ab./%? *é", max_size=12))
def test_normalizing_twice_is_normalizing_once(path: str) -> None:
    for root in ("/", "s3://bucket/", "file:///"):
        once = normalize(root + path)
        assert normalize(once) == once
        assert "/../" not in once + "/"


@pytest.mark.parametrize(
    ("prefix", "location", "allowed"),
    [
        ("/data", "/data", True), ("/data", "/data/x", True), ("/data/", "/data/x", True),
        ("/data", "/database", False),
        ("/data", "/data/../etc", False), ("/data", "/", False), ("/", "/etc", True), ("s3://b", "s3://b/k", True),
        ("s3://b", "s3://b2/k", False), ("s3://b/p", "s3://b/p/k", True), ("s3://b/p", "s3://b/pq", False),
        ("s3://b/p", "s3://b/p/../q", False), ("s3://b", "/b/k", False), ("/data", "s3://data/x", False),
        ("s3://B", "s3://b/k", False), ("/data", "file:///data/x", True), ("/data", "/Data/x", False),
    ],
)  # fmt: skip
def test_a_prefix_allows_what_lies_under_it(prefix: str, location: str, allowed: bool) -> None:
    policy = AccessPolicy((normalize(prefix),))
    if allowed:
        policy.check(normalize(location))
    else:
        with pytest.raises(ForbiddenError, match="allow"):
            policy.check(normalize(location))


def test_no_prefix_allows_nothing_and_none_allows_all() -> None:
    AccessPolicy(None).check("file:///etc/passwd")
    with pytest.raises(ForbiddenError):
        AccessPolicy(()).check("file:///etc/passwd")


def test_symbolic_links_are_followed_before_the_check(tmp_path: Path) -> None:
    inside, outside = tmp_path / "lake", tmp_path / "secret"
    inside.mkdir()
    outside.mkdir()
    (outside / "x").write_text("x")
    (inside / "file").symlink_to(outside / "x")
    (inside / "folder").symlink_to(outside)
    (inside / "loop").symlink_to(inside / "loop")
    (inside / "good").symlink_to(inside / "real")
    policy = AccessPolicy((f"file://{inside}",))
    policy.check(f"file://{inside}/good")
    for name in ("file", "folder/x", "folder/../x", "folder"):
        with pytest.raises(ForbiddenError):
            policy.check(f"file://{inside}/{name}")
    for loop in ("loop", "loop/x"):  # refused, or since Python 3.13 left to the read, which cannot follow it either
        with contextlib.suppress(InvalidError, ForbiddenError):
            policy.check(f"file://{inside}/{loop}")
        with pytest.raises(OSError):
            (inside / loop).read_bytes()
    for odd in ("x" * 5_000, "\udcff\ud800"):
        with pytest.raises((InvalidError, ForbiddenError)):
            policy.check(f"file://{inside}/{odd}/../../../etc" if odd.startswith("x") else f"file://{inside}/{odd}")
    (tmp_path / "alias").symlink_to(inside)
    policy.check(f"file://{tmp_path}/alias/real")
    AccessPolicy((f"file://{tmp_path}/alias",)).check(f"file://{inside}/real")


@pytest.mark.anyio
async def test_what_is_read_is_counted_and_what_is_forbidden_is_not_read(tmp_path: Path) -> None:
    memory = MemoryBlobs(SystemClock())
    await memory.put("k/a", b"hello")
    opened: list[str] = []

    def open_blobs(root: str) -> MemoryBlobs:
        opened.append(root)
        return memory

    stores = Stores(open_blobs, AccessPolicy(("s3://b",)))  # type: ignore[arg-type]
    scoped = stores.scoped()
    assert await scoped.get("s3://b/k/a") == b"hello"
    assert await scoped.get_range("s3://b/k/a", 1, 3) == b"el"
    assert await scoped.get_ranges("s3://b/k/a", [(0, 1), (4, 5)]) == [b"h", b"o"]
    assert (await scoped.head("s3://b/k/a")).size == 5
    assert [location async for location, _meta in scoped.list("s3://b/k/")] == ["s3://b/k/a"]
    assert [location async for location, _meta in scoped.list("s3://b/k/", start_after="s3://b/k/a")] == []
    assert (scoped.count.requests, scoped.count.bytes) == (6, 9)
    assert stores.count.requests == 0
    assert opened == ["s3://b"]
    for read in (scoped.get("s3://c/k"), scoped.head("s3://c/k"), scoped.get_range("file:///etc/passwd", 0, 1)):
        with pytest.raises(ForbiddenError):
            await read
    with pytest.raises(ForbiddenError):
        _ = [each async for each in scoped.list("s3://c/")]
    assert opened == ["s3://b"]


@pytest.mark.anyio
async def test_a_listing_does_not_lead_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "lake" / "link").symlink_to(tmp_path / "secret")
    stores = Stores(lambda _root: LocalBlobs("/", SystemClock()), AccessPolicy((f"file://{tmp_path}/lake",)))
    with pytest.raises(ForbiddenError):
        await stores.get(f"file://{tmp_path}/lake/link")
