"""OPTIMIZE, VACUUM and RESTORE TABLE."""

from __future__ import annotations

import importlib

import numpy as np

from catalog.tables import TableEntry
from functions.index.keep import Kept
from service.write.bulk import passed_watermark
from service.write.compose import Text, quoted
from service.write.context import Outcome, Work
from service.write.feed import wanted_files
from service.write.mutate import committed_before, repeated
from service.write.retry import LostError, retried
from service.write.rewrite import Folded, folded
from service.write.statements import Optimize, Restore, Vacuum
from storage.errors import ConflictError
from storage.tables.snapshot import At, Snapshot

__all__ = ["optimize", "restore", "vacuum"]


async def optimize(work: Work, statement: Optimize) -> Outcome:
    """Fold the log into the table, then merge its small files; those that may hold rows of WHERE, if it is given."""
    from functions.compact import optimize as merge_files
    from functions.index.keep import keep_indexes
    from service.write.index import maintenance_of

    entry = await work.managed(statement.table)
    start = await retried(work, lambda: _folded(work, statement.table))
    base = start.snapshot
    wanted: set[str] | None = None
    if statement.where is not None:
        text = Text(work.parsed.sql).add(f"SELECT 1 FROM {quoted(*statement.table)} WHERE ", statement.where)
        mask = await wanted_files(work, text, statement.table, base)
        wanted = (
            set(base.files.paths) if mask is None else {base.files.paths[at] for at in np.flatnonzero(mask).tolist()}
        )

    def choose(snapshot: Snapshot) -> np.ndarray:
        paths = snapshot.files.paths
        return np.fromiter((wanted is None or path in wanted for path in paths), bool, len(paths))

    jobs = work.engine.jobs
    merging = None if jobs is None else await jobs.merging()
    done = await merge_files(
        work.stores, work.engine.tables, work.engine.clock, entry, choose=choose, merging=merging,
        progress=lambda n_done, n_total: work.tell(n_done, n_total, "files merged"),
    )  # fmt: skip
    work.committed()
    kept = await keep_indexes(
        maintenance_of(work), [await work.managed(statement.table)], as_one=True,
        progress=lambda name, n_done, n_total: work.tell(n_done, n_total, f"files indexed by {name}"),
    )  # fmt: skip
    shown = f"{entry.namespace}.{entry.name}"
    log = f"{start.n_rows} rows of {start.n_records} records folded"
    return Outcome(f"optimized {shown}: {log}, {done.n_files_removed} files became {done.n_files_added}{_told(kept)}")


def _told(kept: Kept) -> str:
    """What became of the indexes: the table is optimized all the same."""
    built = "".join(
        f", index {name} has {len(each.index.segments)} segments"
        for found in kept.refreshed.values() for name, each in found.items()
    )  # fmt: skip
    failed = "".join(f"; {name} could not be refreshed: {error.message}" for name, error in kept.errors.items())
    return built + failed


async def _folded(work: Work, table: tuple[str, str]) -> Folded:
    return await folded(work, await work.managed(table))


async def vacuum(work: Work, statement: Vacuum) -> Outcome:
    """Delete files that no version within the retention needs."""
    from functions.vacuum import vacuum as delete_files

    entry = await work.managed(statement.table)
    done = await delete_files(
        work.stores, work.engine.tables, work.engine.clock, entry,
        retain_hours=statement.retain_hours, dry_run=statement.dry_run, progress=work.tell,
    )  # fmt: skip
    verb = "would delete" if statement.dry_run else "deleted"
    told = f"{verb} {len(done.files)} files of {entry.namespace}.{entry.name}"
    return Outcome(told + (f" and {len(done.snapshots)} snapshots" if done.snapshots else ""))


async def restore(work: Work, statement: Restore) -> Outcome:
    """Give a table the rows that it had, as a new version; its history stays, and so does what the log said since."""

    async def once() -> Outcome:
        entry = await work.managed(statement.table)
        base = await folded(work, entry)
        if await committed_before(work, entry):
            return repeated(entry)
        wanted = await _version(work, entry, statement)
        watermark = await passed_watermark(work, entry, base.snapshot, base.limit)
        if entry.format == "iceberg":
            from storage.tables.iceberg.commit import IcebergWriter

            writer = work.writer(entry)
            assert isinstance(writer, IcebergWriter)
            try:
                await writer.restore(wanted.version, work.facts, watermark)
            except ConflictError as error:
                raise LostError(error.message, **error.facts) from error
            work.committed()
        else:
            from service.write.restore import restore_delta

            await restore_delta(work, entry, base.snapshot, wanted, watermark)
        return Outcome(f"restored {entry.namespace}.{entry.name} to version {wanted.version}")

    return await retried(work, once)


async def _version(work: Work, entry: TableEntry, statement: Restore) -> Snapshot:
    """Return the version that is asked for. Raises `NotFoundError`."""
    entry = await work.managed((entry.namespace, entry.name))
    module = importlib.import_module(f"storage.tables.{entry.format}")
    at = At(version=statement.version, timestamp_ms=statement.timestamp_ms)
    snapshot: Snapshot = await module.load(work.stores, entry.source, at, None)
    return snapshot
