"""Files that are merged on read, as a worker reads them: into one Arrow file of its own for each scan of its plan.

Rows pass by batch, so that memory is what the reader holds; on the disk they take what they would in memory. Written
as Parquet they would cost twice the CPU time, and given to the engine in memory several times theirs.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pyarrow as pa

from functions.merge_wire import Head, MergePart, opened_head, parts_of
from functions.plan_proto import decode
from functions.scratch import Scratch
from functions.stage_mark import mark_of
from storage.errors import InvalidError, LimitError
from storage.stores import Stores
from storage.tables.merge_on_read import Fetch, blocking_fetch, read_rows

__all__ = ["spool"]

REMOTE_STREAMS: Final = 4
"""Files of an object store that are read at once: they wait more than they work."""


async def spool(
    stores: Stores, payload: bytes, inputs: Mapping[str, Sequence[bytes]], scratch: Scratch
) -> dict[str, tuple[str, int]]:
    """Return for each scan of files to merge the file that has their rows: input → path and bytes.

    Parameters
    ----------
    inputs : input → Arrow IPC streams that tell of files

    Raises
    ------
    InvalidError, UnsupportedError : the plan or an input is not as it should be
    CorruptError, NotFoundError, ForbiddenError : of a data file, naming it
    LimitError : the disk is full
    """
    marks = [mark for node in decode(payload).walk() if (mark := mark_of(node)) is not None]
    found: dict[str, tuple[str, int]] = {}
    for mark in marks:
        if mark.name not in inputs:
            raise InvalidError("a task lacks an input of its plan", input=mark.name)
        if mark.name in found:
            continue
        head = opened_head(mark.head)
        parts = list(parts_of(head, (batch for each in inputs[mark.name] for batch in pa.ipc.open_stream(each))))
        path = scratch.folder / f"{len(found)}.arrow"
        await _in_threads(_Writer(path, head), parts, blocking_fetch(stores))
        found[mark.name] = (str(path), path.stat().st_size)
    return found


async def _in_threads(writer: _Writer, parts: Sequence[MergePart], fetch: Fetch) -> None:
    """Write all parts, in threads of their own; none of them works any more when this returns or raises."""
    remote = any(not each.snapshot.files.paths[0].startswith("file://") for each in parts)
    pool = ThreadPoolExecutor(REMOTE_STREAMS if remote else 1, "merging")
    loop = asyncio.get_running_loop()
    works = [loop.run_in_executor(pool, writer.write, each, fetch) for each in parts]
    try:
        if works:
            done, _running = await asyncio.wait(works, return_when=asyncio.FIRST_EXCEPTION)
            for work in done:
                work.result()
        await asyncio.to_thread(writer.close)
    except BaseException:
        writer.stopped = True
        pool.shutdown(wait=False, cancel_futures=True)
        if works:
            await asyncio.wait(works)
        await asyncio.gather(*works, return_exceptions=True)
        writer.close()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Writer:
    """Writes the rows of several threads to one file."""

    def __init__(self, path: Path, head: Head) -> None:
        self._head = head
        self._read = pa.schema([each for each in head.schema if each.name in head.read])
        self._schema = pa.schema([*(pa.field(each.name, each.type) for each in head.schema), (head.live, pa.bool_())])
        self._lock = threading.Lock()
        self._n_rows = 0
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)
        self.stopped = False

    def write(self, part: MergePart, fetch: Fetch) -> None:
        """Add the rows of a part of a file."""
        if self._enough():
            return
        for batch in read_rows(fetch, part.snapshot, 0, self._read, part.deletes, part.part):
            rows = self._whole(batch)
            with self._lock:
                if self._enough():
                    return
                self._n_rows += rows.num_rows
                self._put(rows)

    def _enough(self) -> bool:
        return self.stopped or 0 < self._head.rows <= self._n_rows

    def _whole(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        n_rows = batch.num_rows
        columns = [
            batch.column(field.name) if field.name in self._head.read else pa.nulls(n_rows, field.type)
            for field in self._head.schema
        ]
        return pa.RecordBatch.from_arrays([*columns, pa.repeat(pa.scalar(True), n_rows)], schema=self._schema)

    def _put(self, rows: pa.RecordBatch) -> None:
        try:
            self._writer.write_batch(rows)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise LimitError(
                "the worker's disk has no room for the rows of files that are merged on read; give it more, or compact "
                "the table", limit="disk",
            ) from None  # fmt: skip

    def close(self) -> None:
        """Finish the file, or leave it as it is where its rows are wanted no more."""
        try:
            if not self.stopped:
                self._writer.close()
        finally:
            self._file.close()
