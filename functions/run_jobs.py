"""Whole jobs on one table as tasks; what they make, a coordinator commits.

Bodies have ``catalog`` (`functions.catalog_part`), ``table`` (namespace and name), ``lake``, and ``version``, of which
a Delta table is read (an Iceberg table's is in the catalog's part); ``files`` are locations of data files.

==========  =====================================================  =====================================================
kind        body                                                   reply
==========  =====================================================  =====================================================
`lookup`    ``index``, ``columns``; ``files``: None means all;     rows of the covered files; ``uncovered``: files whose
            input ``keys``: the index's columns                    rows are to be found in another way
`fit`       ``index``, ``files``                                   ``segment``: the `catalog.indexes.SegmentRef` of one
                                                                   that lies in the lake, or None; ``skipped``: file →
                                                                   why
`compact`   ``files``, of one partition; ``layout``: numbers of    rows of `functions.file_facts`: what replaces them
            `functions.layout.LayoutSettings`
==========  =====================================================  =====================================================
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from catalog.indexes import IndexEntry, Indexes, SegmentRef
from catalog.kv import KV
from catalog.tables import TableEntry, Tables
from functions.catalog_part import open_part
from functions.exchange import read_pages, write_pages
from functions.run_task import Job, Outcome, Work
from functions.tasks import Task, TaskKind
from storage.errors import ConflictError, InvalidError, NotFoundError
from storage.tables.snapshot import At, Snapshot

if TYPE_CHECKING:
    from functions.layout import LayoutSettings

__all__ = ["JOBS"]


@dataclass(frozen=True)
class _Table:
    """The table of a job, as of its version; ``files`` are numbers of its files."""

    kv: KV
    entry: TableEntry
    snapshot: Snapshot
    files: Sequence[int]


async def _opened(work: Work, task: Task) -> _Table:
    """Load the table. Raises `ConflictError` if it moved on, `InvalidError` for a body that is not as it should be."""
    body = task.body
    kv = await open_part(body.get("catalog"), work.clock)
    name, version = body.get("table"), body.get("version")
    if not isinstance(name, list) or len(name) != 2 or not all(isinstance(each, str) for each in name):
        raise InvalidError("the task names no table", table=str(name)[:200])
    entry = await Tables(kv, work.clock).get(*name)
    at = At(version=version) if entry.format == "delta" and isinstance(version, int) else At()
    work.stores.policy.check(entry.source)
    module = importlib.import_module(f"storage.tables.{_known(entry.format)}")
    place = (entry.format, entry.source)
    snapshot: Snapshot = await module.load(work.stores, entry.source, at, work.snapshots.get(place))
    work.snapshots[place] = snapshot
    return _Table(kv, entry, snapshot, _numbers(snapshot, body.get("files")))


def _known(format_: str) -> str:
    if format_ not in ("delta", "iceberg"):
        raise InvalidError("jobs of this kind are for tables that we write", format=format_)
    return format_


def _numbers(snapshot: Snapshot, files: Any) -> list[int]:
    if files is None:
        return list(range(len(snapshot.files)))
    numbers = {path: number for number, path in enumerate(snapshot.files.paths)}
    missing = [path for path in files if path not in numbers]
    if missing:
        raise ConflictError("the table moved on: a file is no part of it any more", file=str(missing[0])[:500])
    return [numbers[path] for path in files]


async def _index(work: Work, table: _Table, task: Task) -> IndexEntry:
    for each in await Indexes(table.kv, work.clock).of(table.entry.id):
        if each.name == task.body.get("index"):
            return each
    raise NotFoundError("no such index", index=str(task.body.get("index"))[:200])


def _lake(task: Task) -> str:
    lake = task.body.get("lake")
    if not isinstance(lake, str) or not lake:
        raise InvalidError("the task names no lake")
    return lake


async def _lookup(work: Work, task: Task) -> Outcome:
    from functions.index.models import Models
    from functions.lookup import Pinned, lookup

    table = await _opened(work, task)
    index = await _index(work, table, task)
    snapshot = table.snapshot
    batches = [batch async for batch in read_pages(work.stores, task.inputs.get("keys", ()))]
    if not batches:
        return Outcome(body={"uncovered": []})
    wanted = np.zeros(len(snapshot.files), dtype=bool)
    wanted[list(table.files)] = True
    # Its revision is that of the task's own catalog, which another task's may have too.
    coverage = await Models(table.kv, work.stores, _lake(task)).coverage(replace(index, revision=0), snapshot)
    columns = task.body.get("columns") or snapshot.schema.names
    found = await lookup(work.stores, snapshot, coverage, Pinned(pa.Table.from_batches(batches)), columns, wanted)
    left = wanted & ~coverage.covered
    left[list(found.distrusted)] = True
    name = f"{task.id}-{task.attempt}-{work.clock.new_id()[:8]}"
    pages = await write_pages(
        work.stores, task.results, name, [found.rows.to_batches()], found.rows.schema,
        inline_bytes_max=task.inline_bytes_max,
    )  # fmt: skip
    uncovered = [snapshot.files.paths[number] for number in np.flatnonzero(left).tolist()]
    return Outcome(pages, {"uncovered": uncovered}, {"bytes_scanned": float(found.n_bytes)})


async def _fit(work: Work, task: Task) -> Outcome:
    # Imported here: models are fitted by few workers.
    from functions.index.build import build
    from functions.index.models import segment_location

    table = await _opened(work, task)
    index = await _index(work, table, task)
    built = await build(work.stores, table.snapshot, table.files, index)
    skipped = {table.snapshot.files.paths[number]: why for number, why in built.skipped.items()}
    if built.segment is None:
        return Outcome(body={"segment": None, "skipped": skipped})
    segment = built.segment
    data = await asyncio.to_thread(segment.encode)
    ref = SegmentRef(
        work.clock.new_id(), len(segment.paths), segment.n_keys, len(data), hashlib.sha256(data).hexdigest(), False,
        segment.error,
    )  # fmt: skip
    location = segment_location(_lake(task), table.entry.id, ref.id)
    blobs, key = work.stores.resolve(location)
    work.stores.count.put(location)
    await blobs.put(key, data, if_absent=True)
    return Outcome(body={"segment": asdict(ref), "skipped": skipped})


def _layout(task: Task) -> LayoutSettings:
    from functions.layout import LayoutSettings

    told = task.body.get("layout", {})
    known = {each.name for each in fields(LayoutSettings)}
    values: dict[str, Any] = {name: value for name, value in dict(told).items() if name in known}
    return LayoutSettings(**{"sort_bytes_max": 512 << 20, **values})


async def _compact(work: Work, task: Task) -> Outcome:
    from functions.compact import merged_rows
    from functions.file_facts import FILE_FACTS, encode_files
    from functions.records import key_names

    table = await _opened(work, task)
    snapshot, entry = table.snapshot, table.entry
    if entry.managed is None:
        raise InvalidError("this table is external and only read", table=f"{entry.namespace}.{entry.name}")
    spec = replace(entry.managed.spec, primary_key=key_names(entry, snapshot.schema))
    written = await merged_rows(work.stores, work.clock, snapshot, spec, table.files, _layout(task))
    name = f"{task.id}-{task.attempt}-{work.clock.new_id()[:8]}"
    pages = await write_pages(
        work.stores, task.results, name, [[encode_files(written)]], FILE_FACTS, inline_bytes_max=task.inline_bytes_max
    )
    n_rows = sum(file.n_rows for file in written)
    return Outcome(pages, {"version": snapshot.version, "rows": n_rows, "bytes": sum(file.size for file in written)})


JOBS: Mapping[TaskKind, Job] = {"lookup": _lookup, "fit": _fit, "compact": _compact}
