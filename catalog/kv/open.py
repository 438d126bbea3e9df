"""Opens the catalog's KV by URL, and imports the backend's library only then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from catalog.kv import KV
from storage.blobs import Blobs
from storage.clock import Clock
from storage.errors import InvalidError

if TYPE_CHECKING:
    from catalog.kv.etcd import EtcdOptions

__all__ = ["open_kv"]

_ETCD_PORT = 2379

_FORMS = "memory:, sqlite:///path, etcd://host:port[,host:port…][/namespace], etcds://… or blob+s3://bucket/key"


async def open_kv(
    url: str,
    clock: Clock,
    *,
    open_blobs: Callable[[str], Blobs] | None = None,
    etcd: EtcdOptions | None = None,
) -> KV:
    """Return the KV that ``url`` names; the caller closes it. Nothing is contacted before the first call.

    ==================================================  ====================================================
    ``memory:``                                         this process's memory, gone with it
    ``sqlite:///absolute/path``                         one file, shared by the processes of this machine
    ``etcd://host:port[,host:port…][/namespace]``       an etcd cluster; the port defaults to 2379
    ``etcds://…``                                       the same over TLS
    ``blob+s3://bucket/key``, ``blob+file:///path/key``  one blob that changes by put-if-match
    ==================================================  ====================================================

    Parameters
    ----------
    open_blobs : called with ``"s3://bucket"`` or ``"file://"`` for a ``blob+`` URL. The blobs stay the caller's, who
        may share them with `storage.stores.Stores` and closes them after the KV
    etcd : certificates, user and timeouts; a namespace in the URL goes before the one in here
    """
    scheme, separator, rest = url.partition(":")
    if separator and scheme == "memory" and not rest:
        from catalog.kv.memory import MemoryKV

        return MemoryKV(clock)
    if scheme == "sqlite" and rest.startswith("///") and len(rest) > 3:
        from catalog.kv.sqlite import SqliteKV

        return SqliteKV(Path(rest[2:]), clock)
    if scheme in ("etcd", "etcds") and rest.startswith("//"):
        return _open_etcd(url, rest[2:], clock, etcd, tls=scheme == "etcds")
    if scheme.startswith("blob+") and rest.startswith("//"):
        return _open_blob(url, scheme.removeprefix("blob+"), rest[2:], clock, open_blobs)
    raise InvalidError(f"unknown catalog; write {_FORMS}", catalog=_without_user(url))


def _open_etcd(url: str, rest: str, clock: Clock, options: EtcdOptions | None, *, tls: bool) -> KV:
    from catalog.kv.etcd import EtcdKV, EtcdOptions

    authority, _, namespace = rest.partition("/")
    if "@" in authority:
        raise InvalidError("name the etcd user in the settings, not in the URL", catalog=_without_user(url))
    endpoints = [_with_port(host, url) for host in authority.split(",")]
    options = replace(options or EtcdOptions(), tls=tls)
    namespace = namespace.rstrip("/")
    return EtcdKV(endpoints, clock, replace(options, namespace=namespace) if namespace else options)


def _open_blob(url: str, scheme: str, rest: str, clock: Clock, open_blobs: Callable[[str], Blobs] | None) -> KV:
    from catalog.kv.blob import BlobKV

    authority, _, key = rest.partition("/")
    if scheme not in ("s3", "file") or not key or bool(authority) != (scheme == "s3"):
        raise InvalidError("a catalog in a blob is blob+s3://bucket/key or blob+file:///path/key", catalog=url)
    if open_blobs is None:
        raise InvalidError("no blob store is at hand for this catalog", catalog=url)
    return BlobKV(open_blobs(f"{scheme}://{authority}"), key, clock)


def _with_port(host: str, url: str) -> str:
    name, separator, port = host.rpartition(":")
    if host.endswith("]") or not separator:
        name, port = host, str(_ETCD_PORT)
    if not name or (":" in name and not name.startswith("[")) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidError("not a host:port", host=host, catalog=url)
    return f"{name}:{port}"


def _without_user(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if at else url
