"""Settings into live objects: the only place where a backend is chosen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from catalog.kv import KV
from catalog.kv.open import open_kv
from functions.session import Session, SessionOptions
from service.engine import Engine
from service.settings import EngineSettings
from storage.blobs.open import open_blobs
from storage.clock import Clock, SystemClock
from storage.errors import NotFoundError
from storage.stores import AccessPolicy, Stores, join, normalize

__all__ = ["open_catalog", "open_engine"]

CATALOG_FILE = "catalog.db"
CATALOG_BLOB = "_firnline/catalog.json"


@asynccontextmanager
async def open_engine(settings: EngineSettings, clock: Clock | None = None) -> AsyncIterator[Engine]:
    """Open an engine on a lake. Raises `NotFoundError` if the lake is missing and may not be created."""
    clock = clock or SystemClock()
    stores = Stores(partial(open_blobs, s3=settings.s3, clock=clock), access_policy(settings))
    options = SessionOptions(settings.memory_bytes, settings.spill_dir, settings.target_partitions, settings.s3)
    session = Session(options, clock)
    engine = Engine(session, stores, await open_catalog(settings, clock), clock)
    try:
        yield engine
    finally:
        await engine.close()


def access_policy(settings: EngineSettings) -> AccessPolicy:
    """Return what statements may reach: everything, or the lake and the allowed prefixes."""
    if settings.allow is None:
        return AccessPolicy(None)
    return AccessPolicy(tuple(normalize(prefix) for prefix in (settings.lake, *settings.allow)))


async def open_catalog(settings: EngineSettings, clock: Clock) -> KV:
    """Open the lake's catalog."""
    opener = partial(open_blobs, s3=settings.s3, clock=clock)
    if settings.catalog is not None:
        return await open_kv(settings.catalog, clock=clock, open_blobs=opener)
    lake = normalize(settings.lake)
    if lake.startswith("file://"):
        folder = _folder(lake, settings.create)
        return await open_kv(f"sqlite://{folder / CATALOG_FILE}", clock=clock, open_blobs=opener)
    return await open_kv("blob+" + join(lake, CATALOG_BLOB), clock=clock, open_blobs=opener)


def _folder(lake: str, create: bool) -> Path:
    folder = Path(lake.removeprefix("file://"))
    if not folder.is_dir():
        if not create:
            raise NotFoundError("no lake lies here; give a folder, or let it be made", lake=str(folder))
        folder.mkdir(parents=True, exist_ok=True)
    return folder
