"""Leaves of a cut plan: memory scans that have a name and no rows yet; and a plan's share of one partition.

A leaf's mark is in fields of its memory scan that the engine does not know and ignores. Its columns may all be NULL:
the engine checks rows against what a schema forbids, so that allowing more is safe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import pyarrow as pa
from datafusion import ExecutionPlan, SessionContext

from functions.plan_proto import SCANS, Field, Kind, Node, decode, encode, fields_of, join_fields
from functions.stage_mark import with_bucket
from functions.stage_rows import Rows, stream_of
from storage.errors import InvalidError

__all__ = ["Leaf", "filled", "interleaved", "leaf_node", "leaf_of", "narrowed", "reading_all", "schema_of"]

_MARK, _SCHEMA = 1000, 1001
_INTERLEAVED = 1004
"""Field of a union whose partition k is the k-th of each of its inputs together; the engine ignores it."""
_RIGHT_JOIN = 2
_GIVE_ROWS = frozenset((Kind.AGGREGATE, Kind.GENERATE_SERIES, Kind.PLACEHOLDER_ROW))
"""Nodes that give rows of none."""
_COLLECTS = frozenset((Kind.HASH_JOIN, Kind.NESTED_LOOP_JOIN, Kind.CROSS_JOIN))
PARTITIONED = 1
"""``PartitionMode`` of a hash join, its field 6; 0 is CollectLeft."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """Where pages stand in a plan.

    how : *bucket*: partition k reads bucket k of ``stage``; *all*: one partition reads all; *apart*: each of the
        stage's tasks is a partition
    bucket : the one it reads, once it is narrowed to one partition
    """

    name: str
    stage: int
    how: Literal["bucket", "all", "apart"]
    n_partitions: int
    bucket: int = 0


def leaf_node(leaf: Leaf, schema: pa.Schema) -> Node:
    """Return the leaf as a node of a plan, whose rows have ``schema``."""
    return _marked(_unmarked(schema), leaf)


@lru_cache(maxsize=256)
def _unmarked(schema: pa.Schema) -> Node:
    # Columns of a table need names of their own, those of a plan do not.
    numbered = pa.schema([field.with_name(str(place)) for place, field in enumerate(schema)], schema.metadata)
    context = SessionContext()
    context.register_record_batches("leaf", [[pa.RecordBatch.from_pylist([], schema=numbered)]])
    node = decode(context.table("leaf").execution_plan().to_bytes(context))
    node = node.with_field(1).with_field(2, _renamed(node.data(2)[0], schema.names))
    return node.with_field(_SCHEMA, schema.serialize().to_pybytes())


def _renamed(schema: bytes, names: Sequence[str]) -> bytes:
    """Return an encoded schema whose columns have other names."""
    left = iter(names)
    out: list[Field] = []
    for number, value in fields_of(schema):
        if number == 1 and isinstance(value, bytes):
            others = [each for each in fields_of(value) if each[0] != 1]
            out.append((1, join_fields([(1, next(left).encode()), *others])))
        else:
            out.append((number, value))
    return join_fields(out)


def reading_all(node: Node) -> Node | None:
    """Return a leaf that reads all pages of a stage in place of one that reads buckets; None for any other node."""
    leaf = leaf_of(node)
    if leaf is None or leaf.how != "bucket":
        return None
    return _marked(node, replace(leaf, how="all", n_partitions=1))


def _marked(node: Node, leaf: Leaf) -> Node:
    mark = json.dumps([leaf.name, leaf.stage, leaf.how, leaf.n_partitions, leaf.bucket]).encode()
    return replace(node.with_field(_MARK, mark), n_partitions=leaf.n_partitions)


def leaf_of(node: Node) -> Leaf | None:
    """Return what leaf a node is; None for any other node."""
    if node.kind != Kind.MEMORY_SCAN:
        return None
    marks = node.data(_MARK)
    return Leaf(*json.loads(marks[0])) if marks else None


def filled(node: Node, inputs: Mapping[str, Mapping[int, Sequence[Rows]]]) -> Node:
    """Return the plan with rows in its leaves. Raises `InvalidError` for a leaf without input, even an empty one."""
    leaf = leaf_of(node)
    if leaf is None:
        return node.with_inputs([filled(child, inputs) for child in node.inputs])
    rows = inputs.get(leaf.name)
    if rows is None:
        raise InvalidError("a task lacks an input of its plan", input=leaf.name)
    schema = pa.ipc.read_schema(pa.py_buffer(node.data(_SCHEMA)[0]))
    n = max(leaf.n_partitions, 1)
    beyond = [partition for partition in rows if not 0 <= partition < n]
    if beyond:
        raise InvalidError("a task's input has a partition that its plan lacks", input=leaf.name, partition=beyond[0])
    streams = [stream_of(rows.get(partition, ()), schema) for partition in range(n)]
    return node.with_field(1, *streams).with_field(_MARK).with_field(_SCHEMA)


def narrowed(node: Node, partition: int) -> Node:
    """Return the share of a plan that its partition ``partition`` is: a plan of one partition.

    Nodes that gather are one partition already, and keep all they have; so do the sides of joins that every
    partition has whole.
    """
    leaf = leaf_of(node)
    if leaf is not None:
        if leaf.how != "bucket":
            return node
        return _marked(node, replace(leaf, n_partitions=1, bucket=partition))
    if node.kind == Kind.MEMORY_SCAN:
        return node.with_field(1, node.data(1)[partition])
    if node.kind in SCANS:
        share = replace(node, groups=(node.groups[partition],), n_partitions=1)
        return with_bucket(share, partition)
    if node.kind in (Kind.COALESCE_PARTITIONS, Kind.SORT_PRESERVING_MERGE):
        return node
    if node.kind == Kind.UNION and node.number(_INTERLEAVED):
        shares = [narrowed(child, partition) for child in node.inputs]
        shares = [each for each in shares if _reads(each)] or shares[:1]
        return shares[0] if len(shares) == 1 else _together(node, shares)
    if node.kind == Kind.UNION:
        for child in node.inputs:
            if partition < child.n_partitions:
                return narrowed(child, partition)
            partition -= child.n_partitions
        raise InvalidError("a union has fewer partitions than its plan says", partition=partition)
    inputs = list(node.inputs)
    if node.kind == Kind.SCALAR_SUBQUERY:
        return node.with_inputs([narrowed(inputs[0], partition), *inputs[1:]])
    if node.kind in _COLLECTS and not (node.kind == Kind.HASH_JOIN and node.number(6) == PARTITIONED):
        return node.with_inputs([inputs[0], narrowed(inputs[1], partition)])
    return node.with_inputs([narrowed(child, partition) for child in inputs])


def interleaved(union: Node) -> Node:
    """Return a union whose partition k is the k-th of each of its inputs together."""
    return union.with_field(_INTERLEAVED, 1)


def _reads(node: Node) -> bool:
    """Tell whether a share of a plan has any rows to read."""
    return any(each.kind not in SCANS or any(each.groups) for each in node.walk() if not each.children)


def _together(union: Node, inputs: Sequence[Node]) -> Node:
    children = tuple((1, each) for each in inputs)
    return Node(Kind.COALESCE_PARTITIONS, (), ((1, replace(union, fields=(), children=children)),), 1)


def schema_of(context: SessionContext, node: Node) -> pa.Schema:
    """Return the schema of a plan's rows, with every column nullable; reads no file.

    The engine's Python interface tells no plan's schema. What does is a row: that of an outer join of the plan, its
    scans emptied, with one row of no columns.
    """
    row = Node(Kind.PLACEHOLDER_ROW, ((1, b""), (2, 1)))
    gathered = Node(Kind.COALESCE_PARTITIONS, (), ((1, _emptied(node)),))
    probe = Node(Kind.NESTED_LOOP_JOIN, ((3, _RIGHT_JOIN),), ((1, gathered), (2, row)))
    plan = ExecutionPlan.from_bytes(context, encode(probe))
    for batch in context.execute(plan, 0):
        return batch.to_pyarrow().schema
    raise InvalidError("a plan whose rows have no schema that can be told")


def _emptied(node: Node) -> Node:
    if node.kind == Kind.MEMORY_SCAN:
        return node.with_field(1, b"").with_field(_MARK).with_field(_SCHEMA)
    if node.kind in SCANS:
        return replace(node, groups=(b"",))
    emptied = node.with_inputs([_emptied(child) for child in node.inputs])
    if node.kind == Kind.UNION and node.number(_INTERLEAVED):
        return _together(node, emptied.inputs)
    if node.kind in _GIVE_ROWS:
        return Node(Kind.LOCAL_LIMIT, ((2, 0),), ((1, emptied),))
    return emptied
