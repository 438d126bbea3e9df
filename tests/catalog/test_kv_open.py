"""Which backend a catalog's URL names."""

import subprocess
import sys
from pathlib import Path

import pytest

from catalog.kv import Put
from catalog.kv.blob import BlobKV
from catalog.kv.etcd import EtcdKV, EtcdOptions
from catalog.kv.memory import MemoryKV
from catalog.kv.open import open_kv
from catalog.kv.sqlite import SqliteKV
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import InvalidError

pytestmark = pytest.mark.anyio

CLOCK = SystemClock()


async def test_memory_is_a_map_of_its_own() -> None:
    assert isinstance(await open_kv("memory:", CLOCK), MemoryKV)


async def test_sqlite_is_the_file_of_that_path(tmp_path: Path) -> None:
    kv = await open_kv(f"sqlite://{tmp_path}/catalog of mine.sqlite", CLOCK)
    assert isinstance(kv, SqliteKV)
    await kv.txn({}, [Put("a", b"1")])
    await kv.close()
    assert [path.name for path in tmp_path.iterdir()] == ["catalog of mine.sqlite"]  # noqa: ASYNC240


@pytest.mark.parametrize(
    ("url", "endpoints", "namespace"),
    [
        ("etcd://h", ["h:2379"], "firn"),
        ("etcd://h:1/", ["h:1"], "firn"),
        ("etcd://a:1,b,c:3/lake-2", ["a:1", "b:2379", "c:3"], "lake-2"),
        ("etcd://[::1]:5,[::2]", ["[::1]:5", "[::2]:2379"], "firn"),
    ],
)
async def test_etcd_takes_its_members_and_namespace(url: str, endpoints: list[str], namespace: str) -> None:
    kv = await open_kv(url, CLOCK)
    assert isinstance(kv, EtcdKV)
    assert list(kv._members._endpoints) == endpoints
    assert kv._root == f"{namespace}/".encode()
    assert not kv._members._options.tls
    await kv.close()


async def test_etcds_is_etcd_over_tls_and_keeps_the_given_options() -> None:
    kv = await open_kv("etcds://h", CLOCK, etcd=EtcdOptions(namespace="lake", user="firn", password="p"))
    assert isinstance(kv, EtcdKV)
    options = kv._members._options
    assert (options.tls, options.namespace, options.user) == (True, "lake", "firn")
    assert "'p'" not in repr(options)


@pytest.mark.parametrize(
    ("url", "root", "key"),
    [
        ("blob+s3://bucket/lake/_catalog/head.json", "s3://bucket", "lake/_catalog/head.json"),
        ("blob+file:///data/lake/head.json", "file://", "data/lake/head.json"),
    ],
)
async def test_a_blob_is_opened_by_the_stores_opener(url: str, root: str, key: str) -> None:
    blobs, roots = MemoryBlobs(CLOCK), []

    def open_blobs(asked: str) -> MemoryBlobs:
        roots.append(asked)
        return blobs

    kv = await open_kv(url, CLOCK, open_blobs=open_blobs)
    assert isinstance(kv, BlobKV)
    await kv.txn({}, [Put("a", b"1")])
    assert roots == [root]
    assert (await blobs.head(key)).size > 0


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory",
        "memory:x",
        "sqlite:",
        "sqlite:///",
        "sqlite://relative/path",
        "etcd:h:1",
        "etcd://",
        "etcd://h:port",
        "etcd://h:0",
        "etcd://h:99999",
        "etcd://a,,b",
        "etcd://::1",
        "etcd://h/a/b",
        "etcd://h/a!b",
        "etcd://user:hunter2@h",
        "redis://user:hunter2@h",
        "blob+s3://bucket",
        "blob+s3:///key",
        "blob+file://host/key",
        "blob+gs://bucket/key",
    ],
)
async def test_any_other_url_is_refused_without_repeating_a_password(url: str) -> None:
    with pytest.raises(InvalidError) as caught:
        await open_kv(url, CLOCK, open_blobs=lambda _root: MemoryBlobs(CLOCK))
    assert "hunter2" not in str(caught.value)


async def test_a_blob_without_a_store_at_hand_is_refused() -> None:
    with pytest.raises(InvalidError, match="no blob store"):
        await open_kv("blob+s3://bucket/key", CLOCK)


def test_the_embedded_catalog_imports_no_grpc() -> None:
    code = (
        "import sys, catalog.kv.open, catalog.kv.sqlite, catalog.kv.blob, catalog.tokens\n"
        "assert not {'grpc', 'google.protobuf', 'etcd3'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
