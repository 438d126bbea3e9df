"""RESTORE TABLE of a Delta table: a commit that adds the files of the old version and removes those that came since."""

from __future__ import annotations

import asyncio

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.tables import TableEntry
from service.write.bulk import commit
from service.write.context import Work
from storage.errors import UnsupportedError
from storage.stores import Stores
from storage.tables.snapshot import Snapshot
from storage.tables.write import Change, DataFile, Watermark

__all__ = ["restore_delta"]

_FOOTER_BYTES = 1 << 20
_READS_AT_ONCE = 8


async def restore_delta(work: Work, entry: TableEntry, base: Snapshot, wanted: Snapshot, watermark: Watermark) -> None:
    """Commit the rows of ``wanted`` as the newest version. Columns stay as they are now.

    Raises
    ------
    NotFoundError : a file of the old version was vacuumed
    UnsupportedError : files of either version have deleted rows, which another engine marked beside them
    """
    assert entry.managed is not None
    if base.files.deletes or wanted.files.deletes:
        raise UnsupportedError(
            "a version whose files have deletion vectors cannot be restored; "
            "INSERT OVERWRITE t SELECT * FROM t FOR VERSION AS OF n does",
            table=f"{entry.namespace}.{entry.name}", version=wanted.version,
        )  # fmt: skip
    then, now = set(wanted.files.paths), set(base.files.paths)
    gate = asyncio.Semaphore(_READS_AT_ONCE)

    async def file(index: int) -> DataFile:
        async with gate:
            location = wanted.files.paths[index]
            metadata = await _footer(work.stores, location, int(wanted.files.sizes[index]))
        partition = {
            each.name: _partition(entry, each.column_id, wanted, index)
            for each in entry.managed.spec.partition_by  # type: ignore[union-attr]
            if each.transform == "identity"
        }
        return DataFile(location, int(wanted.files.sizes[index]), partition, metadata)

    missing = [index for index, path in enumerate(wanted.files.paths) if path not in now]
    added = await asyncio.gather(*map(file, missing))
    removed = tuple(path for path in base.files.paths if path not in then)
    facts = {**work.facts, "restored_version": str(wanted.version)}
    change = Change("restore", tuple(added), removed, watermark=watermark, facts=facts)
    await commit(work, entry, base, change, discard=False)


def _partition(entry: TableEntry, column_id: int, snapshot: Snapshot, index: int) -> object:
    from service.write.spec import field_id

    assert entry.managed is not None
    name = next(each.name for each in entry.managed.spec.schema if field_id(each) == column_id)
    return snapshot.files.partitions[name][index].as_py()


async def _footer(stores: Stores, location: str, size: int) -> pq.FileMetaData:
    start = max(0, size - _FOOTER_BYTES)
    tail = await stores.get_range(location, start, size)
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > len(tail):
        tail = await stores.get_range(location, size - length, size)
    # A reader wants magic bytes at both ends; the footer's offsets are not followed.
    return await asyncio.to_thread(lambda: pq.read_metadata(pa.BufferReader(b"PAR1" + tail)))
