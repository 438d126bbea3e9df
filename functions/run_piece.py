"""Pieces of plans: check what they read, put rows into their leaves, run all partitions at once, write pages."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence

from datafusion import ExecutionPlan, RecordBatchStream

from functions.engine_reads import engine_gets
from functions.engine_scans import scans_of
from functions.exchange import PageWriter, read_streams
from functions.execute import ENGINE, metrics_of, start
from functions.plan_files import files_of
from functions.run_task import Outcome, Work
from functions.scratch import Scratch
from functions.session import OWN_FUNCTIONS
from functions.stage_mark import PREFIX
from functions.stages import bind
from functions.tasks import Page, Task
from storage.errors import CorruptError, InvalidError, UnsupportedError
from storage.stores import Stores

__all__ = ["run_piece"]

_HERE_BYTES = 64 << 10
"""Plans up to this are looked through on the event loop: a thread would cost more than it frees."""
Inputs = Mapping[str, Mapping[int, Sequence[bytes]]]
"""Leaf → partition → Arrow IPC streams."""


async def run_piece(work: Work, task: Task) -> Outcome:
    """Return the rows of the task's plan. Its partition b is bucket b; of a ``query`` all are bucket 0.

    Raises
    ------
    ForbiddenError : the plan reads a file that this worker may not
    UnsupportedError : it has a node that is not known, or inlined Python code
    CorruptError, NotFoundError : an input's page, naming it
    """
    if not task.payload:
        raise InvalidError("the task has no plan", kind=task.kind, task=task.id)
    if task.engine and task.engine != ENGINE:
        raise UnsupportedError(
            "the plan is of another engine than this worker's; deploy coordinators and workers of one release",
            plan=task.engine, worker=ENGINE, differs="engine",
        )  # fmt: skip
    if len(task.payload) <= _HERE_BYTES:
        buckets = _checked_buckets(work.stores, task.payload)
    else:
        buckets = await asyncio.to_thread(_checked_buckets, work.stores, task.payload)
    inputs = await _inputs(work.stores, task.inputs)
    before = work.stores.count.bytes
    merged, scratch = await _merged(work, task, inputs)
    n_merged = work.stores.count.bytes - before
    try:
        plan = await work.session.in_planner(_bound, work, task.payload, buckets, inputs, merged)
        del inputs
        pages = await _write(work, task, plan)
    finally:
        if scratch is not None:
            await asyncio.to_thread(scratch.close)
    metrics, count = metrics_of(plan, str(scratch.folder.name) if scratch is not None else ""), work.stores.count
    engine = engine_gets(plan, scans_of(task.payload), work.session.footers) if buckets else 0
    return Outcome(
        pages,
        usage={
            "bytes_scanned": float(metrics.bytes_scanned + n_merged),
            "spilled_bytes": float(metrics.spilled_bytes),
            "gets": float(count.gets + engine),
            "puts": float(count.puts),
        },
    )


def _checked_buckets(stores: Stores, plan: bytes) -> set[str]:
    """Return the buckets whose files a plan reads. Raises `ForbiddenError` for a file that is not allowed."""
    buckets = set()
    for location in files_of(plan):
        stores.policy.check(location)
        scheme, _, rest = location.partition("://")
        if scheme == "s3":
            buckets.add(rest.partition("/")[0])
    return buckets


async def _inputs(stores: Stores, inputs: Mapping[str, Sequence[Page]]) -> Inputs:
    async def one(pages: Sequence[Page]) -> Mapping[int, Sequence[bytes]]:
        by_bucket: dict[int, list[Page]] = defaultdict(list)
        for page in pages:
            by_bucket[page.bucket].append(page)
        return {bucket: await read_streams(stores, own) for bucket, own in sorted(by_bucket.items())}

    read = await asyncio.gather(*map(one, inputs.values()))
    return dict(zip(inputs, read, strict=True))


async def _merged(work: Work, task: Task, inputs: Inputs) -> tuple[dict[str, tuple[str, int]], Scratch | None]:
    """Merge the files that the task's inputs tell of; return them by input, and the folder where they lie."""
    told = [name for name in inputs if name.startswith(PREFIX)]
    if not told:
        return {}, None
    # Imported here: most tasks merge nothing.
    from functions.merge_spool import spool

    scratch = await asyncio.to_thread(Scratch, work.session.options.spill_dir)
    try:
        streams = {name: [page for bucket in inputs[name].values() for page in bucket] for name in told}
        return await spool(work.stores, task.payload, streams, scratch), scratch
    except BaseException:
        scratch.close()
        raise


def _bound(
    work: Work, payload: bytes, buckets: set[str], inputs: Inputs, merged: Mapping[str, tuple[str, int]]
) -> ExecutionPlan:
    session = work.session
    session.open_buckets(sorted(buckets))
    # A plan names our own functions only; it never brings them.
    session.add_functions(frozenset(name for name in OWN_FUNCTIONS if name.encode() in payload))
    try:
        rows = {name: each for name, each in inputs.items() if name not in merged}
        return bind(session.context, payload, rows, merged)
    except Exception as error:
        if "Unable to decode physical node" not in str(error):
            raise
        raise CorruptError(
            "the plan is not one that this worker's engine decodes", reason=str(error)[:300], differs="plan"
        ) from None


async def _write(work: Work, task: Task, plan: ExecutionPlan) -> list[Page]:
    name = f"{task.id}-{task.attempt}-{work.clock.new_id()[:8]}"
    writer: PageWriter | None = None

    async def drain(partition: int, batches: RecordBatchStream) -> None:
        nonlocal writer
        bucket = 0 if task.kind == "query" else partition
        async for batch in batches:
            rows = batch.to_pyarrow()
            if writer is None:
                writer = PageWriter(
                    work.stores, task.results, name, rows.schema, inline_bytes_max=task.inline_bytes_max
                )
            await writer.add(bucket, rows)

    # At once: the partitions of a joined or repartitioned plan wait for each other.
    streams = await start(work.session.context, plan)
    draining = [asyncio.create_task(drain(partition, batches)) for partition, batches in enumerate(streams)]
    try:
        await asyncio.gather(*draining)
        return await writer.finish() if writer is not None else []
    except BaseException:
        for each in draining:
            each.cancel()
        await asyncio.gather(*draining, return_exceptions=True)
        if writer is not None:
            await writer.abandon()
        raise
