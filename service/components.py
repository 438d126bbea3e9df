"""Settings into live objects: the only place where a backend is chosen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from catalog.kv import KV
from catalog.kv.counted import CountedKV
from catalog.kv.open import open_kv
from functions import tracing
from functions.session import Session, SessionOptions
from service.coordinate.open import open_fan_out
from service.engine import Engine
from service.log.open import LakeLogs, open_logs
from service.progress import telling
from service.settings import EngineSettings
from storage.blobs.counted import counting
from storage.blobs.open import open_blobs
from storage.clock import Clock, SystemClock
from storage.counts import Counts
from storage.errors import InvalidError, NotFoundError
from storage.stores import AccessPolicy, Stores, join, normalize

__all__ = ["open_catalog", "open_engine", "opened_catalog"]

CATALOG_FILE = "catalog.db"
_FOLD_AGE_S = 60.0
_NAMES_GETS = 3
"""Tables, namespaces and indexes: each asks whether the catalog's blob is the one known."""
_TOLD_EVERY_S = 10.0
"""How often a query says how many tasks are done: there it takes three PUTs, more than the GETs of a short one."""
CATALOG_BLOB = "_firnline/catalog.json"


@asynccontextmanager
async def open_engine(
    settings: EngineSettings, clock: Clock | None = None, counts: Counts | None = None
) -> AsyncIterator[Engine]:
    """Open an engine on a lake. Raises `NotFoundError` if the lake is missing and may not be created."""
    if settings.traces:
        tracing.start("engine")
    clock, counts = clock or SystemClock(), counts or Counts()
    opener = counting(partial(open_blobs, s3=settings.s3, clock=clock), counts, clock)
    stores = Stores(opener, access_policy(settings))
    options = SessionOptions(settings.memory_bytes, settings.spill_dir, settings.target_partitions, settings.s3)
    session = Session(options, clock)
    kv: KV = CountedKV(await open_catalog(settings, clock, stores), counts, clock)
    logs = open_logs(settings.lake, settings.log, kv, stores, clock)
    fan_out = open_fan_out(settings, session, stores, clock)
    engine = Engine(
        session, stores, kv, clock, logs=logs, lake=settings.lake, index_memory_bytes=settings.index_memory_bytes,
        fan_out=fan_out, counts=counts,
    )  # fmt: skip
    if settings.catalog is None and normalize(settings.lake).startswith("s3://"):
        engine.names_gets = _NAMES_GETS
        if fan_out is not None:
            fan_out.telling = partial(telling, kv, clock, every_s=_TOLD_EVERY_S)
    try:
        async with _compacting(settings, engine, logs):
            yield engine
    finally:
        await engine.close()
        if tracing.is_on():
            await asyncio.to_thread(tracing.flush)


@asynccontextmanager
async def _compacting(settings: EngineSettings, engine: Engine, logs: LakeLogs) -> AsyncIterator[None]:
    if not settings.compact:
        yield
        return
    # Imported here: a process that leaves it to others does not need it.
    from service.compaction import Compaction, CompactionSettings, indexing_of
    from service.compaction_watch import background

    jobs = engine.jobs
    indexing = indexing_of(engine.stores, engine.kv, engine.clock, settings.lake, engine.models, jobs)
    parts = Compaction(
        engine.stores, logs, engine.tables, engine.clock, settings.lake, settings.log.writer, indexing, jobs
    )

    def wrote() -> bool:
        return any(log.owned is not None for log in logs.all().values())

    async with background(parts, CompactionSettings(age_s=_FOLD_AGE_S), wrote):
        yield


def access_policy(settings: EngineSettings) -> AccessPolicy:
    """Return what statements may reach: everything, or the lake and the allowed prefixes."""
    if settings.allow is None:
        return AccessPolicy(None)
    return AccessPolicy(tuple(normalize(prefix) for prefix in (settings.lake, *settings.allow)))


async def open_catalog(settings: EngineSettings, clock: Clock, stores: Stores | None = None) -> KV:
    """Open the lake's catalog. The caller closes it, and after it ``stores``, whose connections it may share."""
    opener = stores.blobs if stores else partial(open_blobs, s3=settings.s3, clock=clock)
    url = settings.catalog
    if url is None:
        lake = normalize(settings.lake)
        local = lake.startswith("file://")
        url = (
            f"sqlite://{_folder(lake, settings.create) / CATALOG_FILE}" if local else "blob+" + join(lake, CATALOG_BLOB)
        )
    if not url.startswith("etcd"):
        return await open_kv(url, clock, open_blobs=opener)
    # Imported here: only a lake with an etcd catalog has the packages.
    from catalog.kv.etcd import EtcdOptions

    access = settings.etcd
    options = EtcdOptions(
        ca_file=_path(access.ca_file),
        cert_file=_path(access.cert_file),
        key_file=_path(access.key_file),
        user=access.user,
        password=access.password,
    )
    return await open_kv(url, clock, etcd=options)


@asynccontextmanager
async def opened_catalog(settings: EngineSettings, clock: Clock) -> AsyncIterator[KV]:
    """Open the lake's catalog alone, and close it."""
    stores = Stores(partial(open_blobs, s3=settings.s3, clock=clock), access_policy(settings))
    try:
        kv = await open_catalog(settings, clock, stores)
        try:
            yield kv
        finally:
            await kv.close()
    finally:
        await stores.close()


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _folder(lake: str, create: bool) -> Path:
    folder = Path(lake.removeprefix("file://"))
    if not folder.is_dir():
        if not create:
            raise NotFoundError("no lake lies here; give a folder, or let it be made", lake=str(folder))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidError(
                "the lake's folder cannot be made; give another, or the right to make it",
                lake=str(folder), reason=error.strerror,
            ) from None  # fmt: skip
    return folder
