"""A physical plan cut into stages: pieces whose partitions run anywhere, with exchanges of rows between them.

The plan is cut below every hash repartitioning, coalescing and sort-preserving merge. A piece's partition k is what
``ExecutionPlan.execute(k)`` gives: it reads the k-th file group and the k-th bucket of its inputs, and nothing else. A
cut leaves a leaf that reads pages; the plan's protobuf is changed there, and only there. A repartitioning stays in the
piece below it, so that the engine's own hash decides the buckets.

Sources: Graefe: "Volcano" (the exchange operator), IEEE TKDE 6(1), 1994; Apache DataFusion Ballista's planner.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pyarrow as pa
from datafusion import ExecutionPlan, SessionContext

from functions.engine_scans import FooterOf, with_sizes
from functions.errors import is_panic
from functions.plan_proto import Kind, Node, decode, encode, join_fields
from functions.stage_aligned import Buckets, aligned_by
from functions.stage_cut import Cut, Cutter, Unaligned
from functions.stage_leaf import filled, leaf_of, schema_of
from functions.stage_mark import mark_of, with_rows
from functions.stage_parts import Exchange, Piece, Read, Stage, Stages, pages_of
from functions.stage_rows import Rows
from functions.stage_seal import opened
from functions.stage_weights import kind_of, scan_bytes
from storage.errors import FirnlineError, UnsupportedError

if TYPE_CHECKING:
    from functions.stage_merge import Merges

__all__ = ["BROADCAST_BYTES", "DISTRIBUTED_OPTIONS", "Exchange", "Piece", "Read", "Stage", "Stages", "bind",
           "broadcast_options", "pages_of", "split"]  # fmt: skip

DISTRIBUTED_OPTIONS: Final[Mapping[str, str]] = {
    "datafusion.optimizer.enable_dynamic_filter_pushdown": "false",
    "datafusion.optimizer.enable_round_robin_repartition": "false",
    "datafusion.optimizer.prefer_existing_sort": "false",
    "datafusion.optimizer.enable_piecewise_merge_join": "false",
}
"""How a plan must be made to be cut; beside these, ``target_partitions`` is the number of tasks wanted.

Dynamic filters are shared by all partitions of one process. A round-robin repartitioning would only move rows.
Orders that are kept through repartitionings would ask of a leaf to merge.
"""

BROADCAST_BYTES: Final = 128 << 20
"""Of a join's smaller side, as the engine estimates it, times the tasks that would get a copy."""
_BROADCAST_ROW_BYTES: Final = 16
"""Of a row at least: hash tables cost more than narrow rows do."""
_ENGINE_BROADCAST_BYTES: Final = 1 << 20

_GUARD = re.compile(r"(?:CASE WHEN |AND |[(\[]|, )random\(\) >= (?:0|Int64\(0\))(?= THEN | AND )")
"""Always true, and so of no influence on values (`service.grouping_sets`)."""
_VOLATILE = re.compile(r"\b(random|uuid|gen_random_uuid)\(")


def broadcast_options(n_tasks: int, bytes_max: int = BROADCAST_BYTES) -> Mapping[str, str]:
    """Return how large a side of a join is collected, and so broadcast, rather than both sides hashed.

    Copies cost their bytes once for each task, a hashed join those of both sides once; so few tasks broadcast more.
    The engine's own limit of 1 MiB holds in any case, unless ``bytes_max`` is 0, which leaves no side broadcast.
    """
    size = max(bytes_max // max(n_tasks, 1), _ENGINE_BROADCAST_BYTES) if bytes_max else 0
    return {
        "datafusion.optimizer.hash_join_single_partition_threshold": str(size),
        "datafusion.optimizer.hash_join_single_partition_threshold_rows": str(size // _BROADCAST_ROW_BYTES),
    }


def split(
    context: SessionContext, plan: ExecutionPlan, buckets: Buckets | None = None, merges: Merges | None = None,
    footer_of: FooterOf | None = None,
) -> Stages:  # fmt: skip
    """Cut a plan; one that cannot be cut is one stage, and the reason says why. Its plan is empty if only the process
    that made it can run it. ``buckets`` are of data files, where tables have them;
    ``merges`` files that are merged on read. With ``footer_of`` its scans of object stores say how wide the files'
    columns are, by which a worker reckons what it read (`functions.engine_reads`)."""
    strict = context.with_python_udf_inlining(enabled=False)
    try:
        data = plan.to_bytes(strict)
    except Exception:  # noqa: BLE001 - the engine says of a node that it has no codec with one class for everything
        return Stages([_whole(b"")], f"{_unencodable(plan)} has rows or code that only this process can read")
    try:
        decoded = decode(data)
    except (UnsupportedError, RecursionError) as error:  # a worker would refuse it
        return Stages([_whole(b"")], str(error))
    if footer_of is not None:
        decoded = with_sizes(decoded, footer_of)
        data = encode(decoded)
    if plan.partition_count > 1:
        gathered = join_fields([(Kind.COALESCE_PARTITIONS, join_fields([(1, data)]))])
    else:
        gathered = data
    merges = merges or {}
    cutter = Cutter(strict, buckets or {}, merges)
    try:
        node = _annotated(plan, decoded)
        volatile = _VOLATILE.search(_GUARD.sub("", plan.display_indent()))
        if volatile is not None:
            schema = schema_of(strict, node)
            return _unsplit(strict, gathered, merges, f"{volatile[1]}() gives other values in each task", schema)
        try:
            cutter.cut(node)
        except Unaligned:
            cutter = Cutter(strict, merges=merges, aligns=False)
            cutter.cut(node)
    except UnsupportedError as error:
        return _unsplit(strict, gathered, merges, str(error))
    except BaseException as error:
        # What the engine does not take apart it may still run; only its own errors and panics are meant.
        if isinstance(error, FirnlineError) or not (isinstance(error, Exception) or is_panic(error)):
            raise
        reason = f"the engine cannot take the plan apart: {str(error).splitlines()[0][:200]}"
        return _unsplit(strict, gathered, merges, reason)
    if len(cutter.cuts) == 1:
        cutter.reasons.append("the plan has one partition")
    return Stages([_stage(number, cut) for number, cut in enumerate(cutter.cuts)], "; ".join(cutter.reasons))


def bind(
    context: SessionContext, plan: bytes, inputs: Mapping[str, Mapping[int, Sequence[Rows]]],
    merged: Mapping[str, tuple[str, int]] | None = None,
) -> ExecutionPlan:  # fmt: skip
    """Return the plan of a piece with rows in its leaves. Its partition b gives the rows of bucket b.

    Parameters
    ----------
    inputs : name of a leaf → the leaf's partition (the page's bucket that `pages_of` gave it) → rows, as batches or as
        the Arrow IPC streams that pages are
    merged : input that tells of files to merge → path and bytes of the file that has their rows

    Raises
    ------
    InvalidError : a leaf has no input, not even an empty one
    CorruptError, UnsupportedError : ``plan`` is none, or has a node that is not known
    UnsupportedError : an engine of another version, or on another kind of processor, made it
    """
    strict = context.with_python_udf_inlining(enabled=False)
    plan = opened(plan)
    try:
        bound = encode(filled(with_rows(decode(plan), merged or {}), inputs))
    except UnsupportedError:  # a plan that is not cut, and so has no leaves
        if inputs or merged:
            raise
        bound = plan
    return ExecutionPlan.from_bytes(strict, bound)


def _stage(number: int, cut: Cut) -> Stage:
    stage = Stage(
        number, kind_of(cut.node), encode(cut.node), _inputs(cut.node),
        cut.node.n_partitions, cut.schema, cut.exchange, scan_bytes(cut.node), cut.local, cut.local,
        aligned_by(cut.node),
    )  # fmt: skip
    stage.__dict__["_node"] = cut.node
    return stage


def _inputs(node: Node) -> list[tuple[str, int]]:
    found = [leaf_of(each) or mark_of(each) for each in node.walk()]
    return [(each.name, each.stage) for each in found if each is not None]


def _unsplit(
    context: SessionContext, data: bytes, merges: Merges, reason: str, schema: pa.Schema | None = None
) -> Stages:
    """Return a plan as one task, behind what tells of the files that it merges."""
    cutter = Cutter(context, merges=merges)
    try:
        node = cutter.told(decode(data))
    except UnsupportedError:
        return Stages([_whole(b"" if merges else data, schema)], reason)
    if not cutter.cuts:
        return Stages([_whole(data, schema)], reason)
    number = len(cutter.cuts)
    whole = replace(_whole(encode(node), schema), number=number, inputs=_inputs(node))
    return Stages([*(_stage(number, cut) for number, cut in enumerate(cutter.cuts)), whole], reason)


def _whole(data: bytes, schema: pa.Schema | None = None) -> Stage:
    """Return a plan as its only stage; without a schema, since its rows have to say what they are."""
    return Stage(0, "query", data, [], 1, schema or pa.schema([]), Exchange("gather"), whole=True)


def _annotated(plan: ExecutionPlan, node: Node) -> Node:
    """Return the nodes with what the engine says of each."""
    children = plan.children()
    if len(children) != len(node.children):
        raise UnsupportedError("a node has other inputs than its encoding", node=plan.display().split(":")[0].strip())
    inputs = [_annotated(child, each) for child, each in zip(children, node.inputs, strict=True)]
    pending = "scalar_subquery(<pending>)" in plan.display()
    return replace(node.with_inputs(inputs), n_partitions=plan.partition_count, pending=pending)


def _unencodable(plan: ExecutionPlan) -> str:
    """Return the name of the innermost node that has no encoding."""
    for child in plan.children():
        try:
            child.to_bytes()
        except Exception:  # noqa: BLE001 - as above
            return _unencodable(child)
    return plan.display().split(":")[0].strip()
