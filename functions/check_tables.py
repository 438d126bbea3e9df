"""One table verified: its metadata loads, agrees with the catalog, and every live file is there and reads."""

from __future__ import annotations

import asyncio
import posixpath
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.tables import TableEntry
from functions.check_report import Finding
from functions.newest import newest_snapshot
from storage.errors import FirnlineError, NotFoundError
from storage.stores import Stores, join, normalize
from storage.tables.footers import FooterCache
from storage.tables.snapshot import Snapshot

__all__ = ["CheckedTable", "check_table", "tables_of"]

_AT_ONCE = 8
_COPY = "restore it from a copy, or RESTORE TABLE to a version that does not need it"


@dataclass
class CheckedTable:
    """What was found of one table.

    watermark : the sequence before which the table holds its log's records; None if it is not managed or not readable
    """

    entry: TableEntry
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    watermark: int | None = None

    @property
    def name(self) -> str:
        return f"{self.entry.namespace}.{self.entry.name}"

    def error(self, where: str, what: str, remedy: str = _COPY) -> None:
        """Note that something is wrong."""
        self.findings.append(Finding("error", f"{self.name}: {where}", what, remedy))


async def check_table(
    stores: Stores, entry: TableEntry, *, deep: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> CheckedTable:  # fmt: skip
    """Verify one table; what is wrong becomes a finding. ``progress`` is told how many of its files are looked at."""
    found = CheckedTable(entry)
    try:
        snapshot = await newest_snapshot(stores, entry)
    except FirnlineError as error:
        found.error(entry.source, f"{type(error).__name__}: {error}", "restore the table's metadata from a copy")
        return found
    if entry.managed is not None:
        found.watermark = watermark_of(snapshot, entry.managed.shard)
        _check_schema(found, snapshot)
    gate = asyncio.Semaphore(_AT_ONCE)
    files = snapshot.files
    n_done = 0

    async def one(number: int) -> None:
        nonlocal n_done
        await _check_file(stores, snapshot, number, found, gate, deep)
        n_done += 1
        progress(n_done, len(files))

    await asyncio.gather(*map(one, range(len(files))))
    found.findings.sort(key=lambda each: each.where)
    found.counts["files"] += len(files)
    found.counts["file_bytes"] += int(files.sizes.sum())
    await _count_others(stores, snapshot, found)
    return found


def watermark_of(snapshot: Snapshot, shard: int) -> int:
    """Up to which sequence the snapshot holds the log's records of its table."""
    if snapshot.format == "delta":
        from storage.tables.delta import DeltaSnapshot

        assert isinstance(snapshot, DeltaSnapshot)
        return int(snapshot.state.transactions.get(f"firnline-log-{shard}", 0))
    text = snapshot.properties.get(f"firnline.log.{shard}", "0")
    return int(text) if text.isdecimal() else 0


def _check_schema(found: CheckedTable, snapshot: Snapshot) -> None:
    assert found.entry.managed is not None
    spec = found.entry.managed.spec
    if spec.schema_id not in found.entry.managed.schemas:
        found.error("its catalog entry", f"schema {spec.schema_id} is not among its schemas")
    ours = {each.name: each.type for each in spec.schema}
    theirs = {each.name: each.type for each in snapshot.schema}
    if ours != theirs:
        odd = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
        what = f"the catalog and the table's own metadata differ in the columns {', '.join(odd)}"
        remedy = "the table's metadata is right; the next ALTER TABLE or compaction takes it over"
        found.findings.append(Finding("warning", found.name, what, remedy))
    for name in spec.primary_key:
        if name not in theirs:
            found.error("its primary key", f"the table has no column {name}")


async def _check_file(
    stores: Stores, snapshot: Snapshot, n: int, found: CheckedTable, gate: asyncio.Semaphore, deep: bool
) -> None:
    location, size, n_rows = snapshot.files.paths[n], int(snapshot.files.sizes[n]), int(snapshot.files.n_rows[n])
    async with gate:
        try:
            meta = await stores.head(location)
            if meta.size != size:
                found.error(location, f"the file has {meta.size} bytes, the table says {size}")
                return
            if snapshot.files.formats.get(n) is None:
                await _check_parquet(stores, location, size, n_rows, found, deep=deep)
            if n in snapshot.files.deletes:
                await snapshot.files.deletes[n].load(stores)
        except NotFoundError:
            found.error(location, "the file is missing")
        except (FirnlineError, pa.ArrowException, OSError, UnicodeDecodeError) as error:
            found.error(location, f"the file cannot be read: {error}")


async def _check_parquet(
    stores: Stores, location: str, size: int, n_rows: int, found: CheckedTable, *, deep: bool
) -> None:
    (footer,) = await FooterCache(1).read(stores, [(location, size, "")])
    rows = footer.metadata.num_rows
    if n_rows >= 0 and rows != n_rows:
        found.error(location, f"the file has {rows} rows, the table says {n_rows}")
    found.counts["rows"] += rows
    if deep:
        data = await stores.get(location)
        await asyncio.to_thread(_decode, data)


def _decode(data: bytes) -> None:
    """Decode every page, a row group at a time. Raises what pyarrow raises."""
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    for group in range(file.num_row_groups):
        file.read_row_group(group).validate(full=True)


async def _count_others(stores: Stores, snapshot: Snapshot, found: CheckedTable) -> None:
    """Count what lies in the table's folder and is no part of its current version."""
    if snapshot.format == "parquet" or found.entry.managed is None:
        return
    folder = normalize(found.entry.location) + "/"
    live = set(snapshot.files.paths)
    n, n_bytes = 0, 0
    async for location, meta in stores.list(folder):
        inside = location.removeprefix(folder)
        if not inside.startswith(("_", "metadata/")) and location not in live:
            n, n_bytes = n + 1, n_bytes + meta.size
    if n:
        what = f"{n} files ({n_bytes} bytes) are no part of the current version: older versions, or left by a crash"
        found.findings.append(Finding("note", found.name, what, "VACUUM removes what no kept version needs"))
    found.counts["other_files"] += n


async def tables_of(stores: Stores, lake: str) -> dict[str, int]:
    """Return the folders of managed tables under the lake, each with its number of files."""
    root = join(lake, "tables") + "/"
    counts: Counter[str] = Counter()
    async for location, _meta in stores.list(root):
        parts = location.removeprefix(root).split("/")
        if len(parts) > 2:
            counts[root + posixpath.join(*parts[:2])] += 1
    return dict(counts)
