"""Where a plan is cut, and what must not be run apart.

A node is run for each of its partitions apart, so nothing may be shared between them. What is shared in the engine:
the collected side of a join, which is broadcast; the rows of that side which found a partner, where the join emits
them (LEFT, FULL, semi, anti and mark of the left), so that such a join is made a partitioned one, or one partition if
it compares by more than equality or asks "NOT IN"; and what `functions.stages.DISTRIBUTED_OPTIONS` turns off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

import pyarrow as pa
from datafusion import SessionContext

from functions.plan_proto import SCANS, Kind, Node, fields_of, join_fields
from functions.stage_aligned import Buckets, aligned, is_aligned
from functions.stage_leaf import PARTITIONED, Leaf, leaf_node, reading_all, schema_of
from functions.stage_parts import Exchange
from functions.stage_weights import MEMORY_BYTES, is_heavy, is_small, memory_bytes, scan_bytes
from storage.errors import UnsupportedError

if TYPE_CHECKING:
    from functions.stage_merge import Merges

__all__ = ["Cut", "Cutter", "Unaligned"]

_TRUE: Final = join_fields([(2, join_fields([(1, 1)]))])
"""The literal ``true`` as an expression."""
_INNER, _LEFT, _RIGHT, _FULL, _LEFT_SEMI, _LEFT_ANTI, _RIGHT_SEMI, _RIGHT_ANTI, _LEFT_MARK, _RIGHT_MARK = range(10)
_KEYS = frozenset((3, 7))
"""Fields of a join: its pairs of keys, and whether NULLs are equal."""
REDUCED_BYTES = 16 << 20
"""Files of a side from this size on are worth being looked through for partners before their rows are hashed."""
_EMITS_LEFT = frozenset((_LEFT, _FULL, _LEFT_SEMI, _LEFT_ANTI, _LEFT_MARK))
_APART = frozenset((
    Kind.PROJECTION, Kind.LOCAL_LIMIT, Kind.AGGREGATE, Kind.SORT, Kind.COALESCE_BATCHES, Kind.FILTER, Kind.WINDOW,
    Kind.UNNEST, Kind.COOPERATIVE, Kind.INTERLEAVE, Kind.SORT_MERGE_JOIN, Kind.ASYNC_FUNCTION, Kind.BUFFER,
    Kind.GLOBAL_LIMIT,
))  # fmt: skip
"""Nodes whose partition k needs partition k of their children, and nothing else."""


@dataclass(frozen=True)
class Cut:
    """A piece that was cut off."""

    node: Node
    schema: pa.Schema
    exchange: Exchange
    local: bool = False


class Unaligned(Exception):  # noqa: N818 - no failure: the plan is cut in another way
    """Rows of a join whose sides lie alike meet rows that were hashed."""


@dataclass
class Cutter:
    """Cuts one plan; used once. ``cuts`` are its pieces, inputs first.

    buckets : of data files, where tables have them
    merges : files that are merged on read
    aligns : whether sides of joins that lie alike are left as they lie (`functions.stage_aligned`)
    reasons : what is done in one task, and why
    """

    context: SessionContext
    buckets: Buckets = field(default_factory=dict)
    merges: Merges = field(default_factory=dict)
    aligns: bool = True
    cuts: list[Cut] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    _scopes: list[tuple[Node, ...]] = field(default_factory=list)
    """Leaves of the scalar subqueries of the plan that is being cut, innermost last."""

    def cut(self, node: Node) -> None:
        """Cut a plan of annotated nodes. Raises `UnsupportedError` for one that must stay whole, `Unaligned` for one
        that may only be cut by a cutter that aligns nothing."""
        last = self._visit_root(self.told(node))
        if self.cuts and any(map(is_heavy, last.walk())):
            # Where the last piece runs is where rows are answered, not where they are worked on.
            last = self._exchanged(last, "gather")
        self.cuts.append(Cut(last, self._schema(last), Exchange("gather")))

    def told(self, node: Node) -> Node:
        """Return the plan with marks on scans of files to merge; what tells of these files is cut off."""
        if not self.merges:
            return node
        # Imported here: most plans merge nothing, and workers cut none.
        from functions.stage_merge import marked

        found = marked(node, self.merges, len(self.cuts))
        if found is None:
            return node.with_inputs([self.told(child) for child in node.inputs])
        scan, told, schema = found
        exchange = Exchange("hash", (), told.n_partitions)
        self.cuts.append(Cut(replace(told, n_partitions=1), schema, exchange, local=True))
        return scan

    def _visit_root(self, node: Node) -> Node:
        """Return the last piece of a plan or a scalar subquery: one partition, what it needs included."""
        if node.kind != Kind.SCALAR_SUBQUERY:
            self._scopes.append(())
            top = self._one(self._visit(node))
        else:
            main, *subqueries = node.inputs
            self._scopes.append(tuple(self._exchanged(self._visit_root(each), "broadcast") for each in subqueries))
            top = self._with_subqueries(self._one(self._visit(main)))
        self._scopes.pop()
        return top

    def _one(self, node: Node) -> Node:
        return node if node.n_partitions == 1 else self._exchanged(self._with_subqueries(node), "gather")

    # One node

    def _visit(self, node: Node) -> Node:
        """Return the node over leaves where it is cut below, with the partitions that it has then."""
        match node.kind:
            case Kind.COALESCE_PARTITIONS:
                return self._gathered(node, "gather")
            case Kind.SORT_PRESERVING_MERGE:
                return self._gathered(node, "ordered")
            case Kind.REPARTITION:
                return self._repartitioned(node)
            case Kind.HASH_JOIN | Kind.NESTED_LOOP_JOIN | Kind.CROSS_JOIN:
                return self._joined(node)
            case Kind.UNION:
                inputs = [self._visit(child) for child in node.inputs]
                return replace(node.with_inputs(inputs), n_partitions=sum(each.n_partitions for each in inputs))
            case Kind.MEMORY_SCAN if memory_bytes(node) > MEMORY_BYTES:
                return self._local(node)
            case kind if not node.children:
                if node.n_partitions > 1 and kind not in SCANS and kind != Kind.MEMORY_SCAN:
                    raise UnsupportedError("a source of rows that has several streams and no files", node=kind)
                return node
            case kind if kind in _APART:
                inputs = [self._visit(child) for child in node.inputs]
                if len(inputs) > 1:
                    self._check_hashed(inputs)
                counts = {each.n_partitions for each in inputs}
                if len(counts) != 1:
                    raise UnsupportedError("inputs of unlike partitions meet", node=Kind(kind).name.lower())
                return replace(node.with_inputs(inputs), n_partitions=counts.pop())
            case kind:
                raise UnsupportedError("a node that is not known to run apart", node=Kind(kind).name.lower())

    def _gathered(self, node: Node, kind: Literal["gather", "ordered"]) -> Node:
        child = self._visit(node.inputs[0])
        if child.n_partitions == 1:
            return replace(node.with_inputs([child]), n_partitions=1)
        fetch = node.number(2) if kind == "gather" else 0
        if fetch:
            limited = Node(Kind.LOCAL_LIMIT, ((2, fetch),), ((1, child),), child.n_partitions)
            child = limited
        leaf = self._exchanged(self._with_subqueries(child), kind)
        return replace(node.with_inputs([leaf]), n_partitions=1)

    def _repartitioned(self, node: Node) -> Node:
        child = self._visit(node.inputs[0])
        if node.number(6) and child.n_partitions > 1:
            raise UnsupportedError("rows keep their order through a repartitioning")
        return self._exchanged(self._with_subqueries(node.with_inputs([child])), "hash", node.n_partitions, child)

    # Joins

    def _joined(self, node: Node) -> Node:
        left, right = node.inputs
        if node.kind == Kind.HASH_JOIN and node.number(6) == PARTITIONED:
            together = aligned(node, node.n_partitions, self.buckets) if self.aligns else None
            if together is not None:
                return together
            inputs = [self._visit(left), self._visit(right)]
            self._check_hashed(inputs)
            if inputs[0].n_partitions != inputs[1].n_partitions:
                raise UnsupportedError("the sides of a partitioned join have unlike partitions")
            return replace(node.with_inputs(inputs), n_partitions=inputs[0].n_partitions)
        probe = self._visit(right)
        if probe.n_partitions > 1 and self._emits_left(node):
            if node.kind == Kind.HASH_JOIN and not node.number(10):
                return self._made_partitioned(node, left, probe)
            why = "NOT IN" if node.kind == Kind.HASH_JOIN else "a join by more than equality"
            self.reasons.append(f"{why} keeps rows of the side that all tasks would share: that join is one task")
            probe = self._exchanged(self._with_subqueries(probe), "gather")
        build = self._collected(left, n_tasks=probe.n_partitions)
        return replace(node.with_inputs([build, probe]), n_partitions=probe.n_partitions)

    def _check_hashed(self, inputs: Sequence[Node]) -> None:
        """Raise `Unaligned` where rows must lie as the engine's hash has it, and do not."""
        if any(map(is_aligned, inputs)):
            raise Unaligned

    def _emits_left(self, node: Node) -> bool:
        field_ = {Kind.HASH_JOIN: 4, Kind.NESTED_LOOP_JOIN: 3}.get(Kind(node.kind))
        return field_ is not None and node.number(field_) in _EMITS_LEFT

    def _collected(self, left: Node, n_tasks: int) -> Node:
        """Return the side of a join that each partition has whole."""
        if n_tasks == 1:
            return self._visit(left)
        if left.kind == Kind.COALESCE_PARTITIONS and not left.number(2):
            child = self._visit(left.inputs[0])
        else:
            child = self._visit(left)
        if child.n_partitions == 1 and is_small(child):
            return child
        return self._exchanged(self._with_subqueries(child), "broadcast")

    def _made_partitioned(self, node: Node, left: Node, probe: Node) -> Node:
        """Return a join of a collected side as one of two sides that are hashed by their keys.

        The engine promises nothing of how the rows of such a join lie, so nothing above depends on it.
        """
        n = probe.n_partitions
        build = self._visit(left.inputs[0] if left.kind == Kind.COALESCE_PARTITIONS and not left.number(2) else left)
        hashed = self._hashed(build, node, 1, n)
        if node.number(4) != _FULL and scan_bytes(probe) > REDUCED_BYTES:
            probe = _partners(node, hashed, probe)
        sides = [hashed, self._hashed(probe, node, 2, n)]
        return replace(node.with_inputs(sides).with_field(6, PARTITIONED), n_partitions=n)

    def _hashed(self, child: Node, join: Node, side: int, n: int) -> Node:
        """Cut off a side of a join, hashed by the join's keys into ``n`` buckets."""
        keys = [dict(fields_of(each))[side] for each in join.data(3)]
        top = _hash_repartition(child, [key for key in keys if isinstance(key, bytes)], n)
        return self._exchanged(self._with_subqueries(top), "hash", n, child)

    # Exchanges

    def _local(self, node: Node) -> Node:
        """Cut off rows that lie in memory: one task, whose buckets are their partitions."""
        number, n, schema = len(self.cuts), node.n_partitions, self._schema(node)
        self.cuts.append(Cut(replace(node, n_partitions=1), schema, Exchange("hash", (), n), local=True))
        return leaf_node(Leaf(f"stage{number}", number, "bucket", n), schema)

    def _exchanged(
        self, top: Node, kind: Literal["hash", "gather", "broadcast", "ordered"], n_buckets: int = 1,
        child: Node | None = None,
    ) -> Node:  # fmt: skip
        """Cut ``top`` off and return the leaf that stands for its rows.

        ``child`` is what a repartitioning at the top is of, and has the partitions that are tasks.
        """
        copied = reading_all(top) if kind in ("gather", "broadcast") else None
        if copied is not None:
            return copied
        n_tasks = (child or top).n_partitions
        keys = _key_columns(top) if kind == "hash" else ()
        schema = self._schema(top)
        if not schema.names:
            # Rows without columns are only a number, which many a form of them loses.
            counted = Node(Kind.PROJECTION, ((2, _TRUE), (3, b"row")), ((1, top),), top.n_partitions)
            leaf = self._exchanged(counted, kind, n_buckets)
            return Node(Kind.PROJECTION, (), ((1, leaf),), leaf.n_partitions)
        number = len(self.cuts)
        self.cuts.append(Cut(replace(top, n_partitions=n_tasks), schema, Exchange(kind, keys, n_buckets)))
        how: Literal["bucket", "apart", "all"] = "bucket" if kind == "hash" else "apart" if kind == "ordered" else "all"
        n = {"bucket": n_buckets, "apart": n_tasks, "all": 1}[how]
        return leaf_node(Leaf(f"stage{number}", number, how, n), schema)

    def _with_subqueries(self, top: Node) -> Node:
        leaves = self._scopes[-1]
        if not leaves or not any(each.pending for each in top.walk()):
            return top
        children = ((1, top), *((2, leaf) for leaf in leaves))
        return Node(Kind.SCALAR_SUBQUERY, (), children, top.n_partitions)

    def _schema(self, top: Node) -> pa.Schema:
        return schema_of(self.context, top)


def _partners(join: Node, build: Node, probe: Node) -> Node:
    """Return the rows of the probed side that have a key of the other, small side: only these are worth a shuffle.

    The others change nothing where the join emits no rows of theirs. A semi-join before the rows are sent; source:
    Bernstein, Chiu: "Using Semi-Joins to Solve Relational Queries", Journal of the ACM 28(1), 1981.
    """
    everything = reading_all(build)
    if everything is None:  # rows without columns
        return probe
    fields = ((4, _RIGHT_SEMI), *((field, value) for field, value in join.fields if field in _KEYS))
    return Node(Kind.HASH_JOIN, fields, ((1, everything), (2, probe)), probe.n_partitions)


def _hash_repartition(child: Node, keys: Sequence[bytes], n: int) -> Node:
    hashing = join_fields([*((1, key) for key in keys), (2, n)])
    return Node(Kind.REPARTITION, ((5, join_fields([(2, hashing)])),), ((1, child),), n)


def _key_columns(top: Node) -> tuple[int, ...]:
    """Return the column numbers that a repartitioning hashes by; nothing if a key is no plain column."""
    node = next((each for each in top.walk() if each.kind == Kind.REPARTITION), top)
    found: list[int] = []
    for partitioning in node.data(5):
        for method, value in fields_of(partitioning):
            if method != 2 or not isinstance(value, bytes):
                return ()
            for number, key in fields_of(value):
                if number != 1 or not isinstance(key, bytes):
                    continue
                column = dict(fields_of(key)).get(1)
                if not isinstance(column, bytes):
                    return ()
                place = dict(fields_of(column)).get(2, 0)
                found.append(place if isinstance(place, int) else 0)
    return tuple(found)
