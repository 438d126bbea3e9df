"""Table formats: each module resolves a location to a `Snapshot`.

Contract of a format module (``storage.tables.delta``, ``.iceberg``, ``.parquet``)::

    async def load(stores: Stores, location: str, at: At, known: Snapshot | None) -> Snapshot

``known`` is the newest snapshot of the same location that the caller remembers, or None. A format uses it to ask
the store as little as it can: when nothing changed it returns ``known`` itself after at most one request, and when
new commits arrived it reads only those. Raises `NotFoundError` (no such table, version or time), `CorruptError`
(which file), `UnsupportedError` (which feature).
"""
