"""Local blobs in particular: durability, races between processes, links, odd files, and what an `OSError` becomes."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.blobs import Blobs
from storage.blobs.local import LocalBlobs
from storage.blobs.local_files import temporary_name
from storage.blobs.memory import MemoryBlobs
from storage.blobs.open import S3Options, open_blobs
from storage.clock import SystemClock
from storage.errors import ForbiddenError, InvalidError, NotFoundError, UnavailableError

pytestmark = pytest.mark.anyio


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "root", SystemClock())


async def keys_of(blobs: Blobs, prefix: str = "", start_after: str | None = None) -> list[str]:
    return [meta.key async for meta in blobs.list(prefix, start_after=start_after)]


async def test_the_root_of_the_file_system_serves_absolute_paths(tmp_path: Path) -> None:
    blobs = open_blobs("file://", s3=S3Options(), clock=SystemClock())
    key = f"{tmp_path}/folder/blob"[1:]
    await blobs.put(key, b"content")
    assert (tmp_path / "folder" / "blob").read_bytes() == b"content"
    assert await keys_of(blobs, str(tmp_path)[1:] + "/") == [key]
    with pytest.raises(NotFoundError, match=f"path={tmp_path}/other"):
        await blobs.get(f"{tmp_path}/other"[1:])


@pytest.mark.parametrize(
    "root", ["", "s3://", "s3://bucket/key", "s3://..", "s3://a?b", "s3://a@b", "gs://bucket", "bucket", "http://host"]
)
def test_a_store_that_is_not_known_is_refused(root: str) -> None:
    with pytest.raises(InvalidError):
        open_blobs(root, s3=S3Options(), clock=SystemClock())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc to name descriptors by")
async def test_a_put_syncs_the_file_before_it_has_its_name_and_every_changed_folder_after(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def watch(name: str, path_of: object) -> None:
        original = getattr(os, name)

        def watched(*arguments: object, **named: object) -> object:
            assert callable(path_of)
            events.append(f"{name} {Path(path_of(*arguments)).name}")
            return original(*arguments, **named)

        monkeypatch.setattr(os, name, watched)

    watch("fsync", lambda descriptor: Path(f"/proc/self/fd/{descriptor}").readlink())
    watch("link", lambda _source, target: target)
    watch("replace", lambda _source, target: target)

    def plain() -> list[str]:
        return ["fsync temporary" if ".firn-" in event else event for event in events]

    await blobs.put("a/b/blob", b"content", if_absent=True)
    folders = [f"fsync {blobs._root.parent.name}", "fsync root", "fsync a"]
    assert plain() == [*folders, "fsync temporary", "link blob", "fsync b"]
    events.clear()
    await blobs.put("a/b/blob", b"content")
    assert plain() == ["fsync temporary", "replace blob", "fsync b"]


INCREMENT = """
import asyncio, sys
from storage.blobs.local import LocalBlobs
from storage.clock import SystemClock
from storage.errors import ConflictError

async def main():
    blobs = LocalBlobs(sys.argv[1], SystemClock())
    done = won = 0
    while done < 25:
        data, meta = await blobs.get("counter")
        try:
            await blobs.put("counter", b"%03d" % (int(data) + 1), if_match=meta.etag)
            done += 1
        except ConflictError:
            pass
    for n in range(25):
        try:
            await blobs.put(f"claims/{n}", b"", if_absent=True)
            won += 1
        except ConflictError:
            pass
    print(won)

asyncio.run(main())
"""


async def test_compare_and_swap_and_put_if_absent_hold_between_processes(blobs: LocalBlobs) -> None:
    await blobs.put("counter", b"000")
    command = [sys.executable, "-c", INCREMENT, str(blobs._root)]

    def run() -> int:
        return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)

    won = await asyncio.gather(*(asyncio.to_thread(run) for _ in range(4)))
    assert (await blobs.get("counter"))[0] == b"100"
    assert sum(won) == 25


async def test_a_reader_sees_the_old_bytes_or_the_new(blobs: LocalBlobs) -> None:
    contents = [bytes([n]) * 100_000 for n in range(20)]
    await blobs.put("head", contents[0])

    async def replace() -> None:
        for content in contents[1:]:
            await blobs.put("head", content)

    writing = asyncio.ensure_future(replace())
    while not writing.done():
        data, meta = await blobs.get("head")
        assert data in contents
        assert meta.size == len(data)
    await writing


async def test_an_etag_changes_when_another_program_rewrites_the_file_and_restores_its_time(
    blobs: LocalBlobs,
) -> None:
    before = await blobs.put("blob", b"content")
    path = blobs._root / "blob"
    status = path.stat()
    await asyncio.sleep(0.02)
    with path.open("r+b") as file:
        file.write(b"CONTENT")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (await blobs.head("blob")).etag != before.etag


async def test_what_a_crash_left_behind_is_not_listed(blobs: LocalBlobs) -> None:
    await blobs.put("blob", b"content")
    (blobs._root / temporary_name(SystemClock().new_id())).write_bytes(b"half")
    assert await keys_of(blobs) == ["blob"]


async def test_nothing_is_left_behind_by_a_put_that_failed(blobs: LocalBlobs) -> None:
    await blobs.put("folder/blob", b"content")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(UnavailableError, match="key=folder/large"):
            await blobs.put("folder/large", bytes(2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (blobs._root / "folder").iterdir()] == ["blob"]


async def test_links_are_followed_and_a_cycle_of_them_ends(blobs: LocalBlobs, tmp_path: Path) -> None:
    await blobs.put("a/blob", b"content")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far").write_bytes(b"far")
    (blobs._root / "link").symlink_to(tmp_path / "elsewhere")
    (blobs._root / "a" / "up").symlink_to(blobs._root)
    (blobs._root / "file-link").symlink_to(tmp_path / "elsewhere" / "far")
    (blobs._root / "broken").symlink_to(tmp_path / "nothing")
    assert await keys_of(blobs) == ["a/blob", "file-link", "link/far"]
    assert (await blobs.get("link/far"))[0] == b"far"
    with pytest.raises(NotFoundError):
        await blobs.get("broken")


@pytest.mark.timeout(20)
async def test_pipes_and_devices_are_refused_at_once(blobs: LocalBlobs) -> None:
    await blobs.put("blob", b"content")
    os.mkfifo(blobs._root / "pipe")
    (blobs._root / "zero").symlink_to("/dev/zero")
    for key in ("pipe", "zero"):
        for call in (blobs.get(key), blobs.get_range(key, 0, 1), blobs.head(key)):
            with pytest.raises(InvalidError, match="not a regular file"):
                await call
    assert await keys_of(blobs) == ["blob"]


async def test_a_name_that_is_not_utf8_is_reported_and_not_left_out(blobs: LocalBlobs) -> None:
    await blobs.put("folder/blob", b"content")
    (blobs._root / "folder" / os.fsdecode(b"\xff.parquet")).write_bytes(b"")
    with pytest.raises(InvalidError, match="not UTF-8"):
        await keys_of(blobs)


async def test_a_name_that_is_too_long_for_the_file_system_is_invalid(blobs: LocalBlobs) -> None:
    for call in (blobs.put("n" * 300, b""), blobs.get("n" * 300)):
        with pytest.raises(InvalidError, match="path="):
            await call


@contextmanager
def without_rights() -> Iterator[None]:
    """Lay down root's rights, if these are ours: root may read everything."""
    euid = os.geteuid()
    if euid == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(euid)


@pytest.fixture
def guarded() -> Iterator[Path]:
    """A folder that anyone may enter and nobody change, with a file and a folder that nobody may read."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for folder in ("open", "shut"):
            (root / folder).mkdir()
            (root / folder / "blob").write_bytes(b"content")
        (root / "open" / "blob").chmod(0)
        (root / "shut").chmod(0)
        root.chmod(0o555)
        yield root
        root.chmod(0o755)
        (root / "shut").chmod(0o755)


async def test_what_may_not_be_read_or_written_is_forbidden_and_named(guarded: Path) -> None:
    blobs = LocalBlobs(guarded, SystemClock())
    with without_rights():
        for call in (blobs.get("open/blob"), blobs.get("shut/blob"), blobs.put("new", b""), blobs.delete("shut/blob")):
            with pytest.raises(ForbiddenError, match=f"path={guarded}/"):
                await call
        with pytest.raises(ForbiddenError):
            await keys_of(blobs)
        assert await keys_of(blobs, "open/") == ["open/blob"]


SEGMENT = st.text(st.sampled_from("ab-.0/é\U0001f600"), min_size=1, max_size=5)


def _is_key(key: str) -> bool:
    return all(part not in ("", ".", "..") for part in key.split("/"))


@given(
    keys=st.sets(SEGMENT.filter(_is_key), max_size=12),
    prefix=SEGMENT.filter(lambda prefix: _is_key(prefix + "x")) | st.just(""),
    start_after=SEGMENT | st.none(),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_listing_equals_a_sorted_set(keys: set[str], prefix: str, start_after: str | None) -> None:
    # A file and a folder of one name cannot both be.
    keys = {key for key in keys if not any(other.startswith(key + "/") for other in keys)}
    expected = [key for key in keys if key.startswith(prefix) and (start_after is None or key > start_after)]

    async def check(root: str) -> None:
        memory, local = MemoryBlobs(SystemClock()), LocalBlobs(root, SystemClock())
        for key in keys:
            await memory.put(key, b"")
            (Path(root) / key).parent.mkdir(parents=True, exist_ok=True)
            (Path(root) / key).touch()
        for blobs in (memory, local):
            assert await keys_of(blobs, prefix, start_after) == sorted(expected, key=str.encode)

    with tempfile.TemporaryDirectory() as root:
        asyncio.run(check(root))
