"""The live rows of a snapshot's files, streamed: what the verbs that write files anew begin from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pyarrow as pa

from storage.stores import Stores
from storage.tables.merge_on_read import Fetch, blocking_fetch, read_rows
from storage.tables.snapshot import LoadedDeletes, Snapshot

__all__ = ["live_rows"]

_WHOLE_BYTES_MAX = 256 << 20
"""Files up to this size are fetched in one request when all columns are wanted."""


async def live_rows(
    stores: Stores, snapshot: Snapshot, index: int, schema: pa.Schema | None = None
) -> AsyncIterator[pa.RecordBatch]:
    """Yield the rows of file ``index`` that are not deleted, always in the same order, in the table's own columns.

    Parameters
    ----------
    schema : a selection of the snapshot's columns; None: all of them

    Raises
    ------
    CorruptError, NotFoundError : the file is damaged or missing
    """
    deletes = snapshot.files.deletes.get(index)
    loaded: LoadedDeletes | None = await deletes.load(stores) if deletes is not None else None
    size = int(snapshot.files.sizes[index])
    if schema is None and size <= _WHOLE_BYTES_MAX:
        fetch = _of_bytes(await stores.get(snapshot.files.paths[index]))
    else:
        fetch = blocking_fetch(stores)
    batches = read_rows(fetch, snapshot, index, snapshot.schema if schema is None else schema, loaded)
    following: Callable[[], pa.RecordBatch | None] = lambda: next(batches, None)  # noqa: E731
    while (batch := await asyncio.to_thread(following)) is not None:
        yield batch


def _of_bytes(data: bytes) -> Fetch:
    return lambda _location, start, limit: data[start:limit]
