"""Physical plans as trees of protobuf messages, of which only the nodes' own structure is read.

A node's children, scans' shares and a few numbers are taken apart; whatever else a node has (expressions, schemas,
statistics) stays the bytes that the engine wrote. Numbers are those of ``datafusion.proto`` of the engine's version;
`tests/functions/test_plan_proto.py` holds them to what the engine writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from storage.errors import CorruptError, UnsupportedError

__all__ = [
    "CHILD_FIELDS",
    "SCANS",
    "SEAL",
    "Field",
    "Kind",
    "Node",
    "decode",
    "encode",
    "fields_of",
    "join_fields",
    "varint",
]

Field = tuple[int, int | bytes]
"""A field's number, and its value: an integer if it is a varint, else its bytes."""


class Kind(IntEnum):
    """Nodes by their number in ``PhysicalPlanNode``."""

    PARQUET_SCAN = 1
    CSV_SCAN = 2
    EMPTY = 3
    PROJECTION = 4
    GLOBAL_LIMIT = 6
    LOCAL_LIMIT = 7
    AGGREGATE = 8
    HASH_JOIN = 9
    SORT = 10
    COALESCE_BATCHES = 11
    FILTER = 12
    COALESCE_PARTITIONS = 13
    REPARTITION = 14
    WINDOW = 15
    CROSS_JOIN = 16
    AVRO_SCAN = 17
    UNION = 19
    SORT_PRESERVING_MERGE = 21
    NESTED_LOOP_JOIN = 22
    INTERLEAVE = 26
    PLACEHOLDER_ROW = 27
    UNNEST = 30
    JSON_SCAN = 31
    COOPERATIVE = 32
    GENERATE_SERIES = 33
    SORT_MERGE_JOIN = 34
    MEMORY_SCAN = 35
    ASYNC_FUNCTION = 36
    BUFFER = 37
    ARROW_SCAN = 38
    SCALAR_SUBQUERY = 39


CHILD_FIELDS: Final[dict[int, tuple[int, ...]]] = {
    Kind.PROJECTION: (1,), Kind.GLOBAL_LIMIT: (1,), Kind.LOCAL_LIMIT: (1,), Kind.AGGREGATE: (4,),
    Kind.HASH_JOIN: (1, 2), Kind.SORT: (1,), Kind.COALESCE_BATCHES: (1,), Kind.FILTER: (1,),
    Kind.COALESCE_PARTITIONS: (1,), Kind.REPARTITION: (1,), Kind.WINDOW: (1,), Kind.CROSS_JOIN: (1, 2),
    Kind.UNION: (1,), Kind.SORT_PRESERVING_MERGE: (1,), Kind.NESTED_LOOP_JOIN: (1, 2), Kind.INTERLEAVE: (1,),
    Kind.UNNEST: (1,), Kind.COOPERATIVE: (1,), Kind.SORT_MERGE_JOIN: (1, 2), Kind.ASYNC_FUNCTION: (1,),
    Kind.BUFFER: (1,), Kind.SCALAR_SUBQUERY: (1, 2),
    Kind.PARQUET_SCAN: (), Kind.CSV_SCAN: (), Kind.EMPTY: (), Kind.AVRO_SCAN: (), Kind.PLACEHOLDER_ROW: (),
    Kind.JSON_SCAN: (), Kind.GENERATE_SERIES: (), Kind.MEMORY_SCAN: (), Kind.ARROW_SCAN: (),
}  # fmt: skip
"""Node → numbers of its fields that are nodes. All are repeated in the order of these numbers."""

SEAL: Final = 1002
"""Field beside the node of a plan that says which engine made it (`functions.stage_seal`)."""
SCANS: Final = frozenset((Kind.PARQUET_SCAN, Kind.CSV_SCAN, Kind.AVRO_SCAN, Kind.JSON_SCAN, Kind.ARROW_SCAN))
"""Scans of files: field 1 is a ``FileScanExecConf``, whose field 1 are the file groups."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its fields that are no nodes, and its children with the fields that they are.

    n_partitions : that it gives; 0 where nobody asked
    pending : whether an expression of it waits for a scalar subquery
    groups : of a scan of files, what each partition reads; its field 1 is then the rest of its configuration
    """

    kind: int
    fields: tuple[Field, ...]
    children: tuple[tuple[int, Node], ...] = ()
    n_partitions: int = 0
    pending: bool = False
    groups: tuple[bytes, ...] = ()

    @property
    def inputs(self) -> tuple[Node, ...]:
        return tuple(child for _field, child in self.children)

    def number(self, field: int, default: int = 0) -> int:
        """Return an integer field."""
        for number, value in self.fields:
            if number == field and isinstance(value, int):
                return value
        return default

    def data(self, field: int) -> list[bytes]:
        """Return all values of a field of bytes."""
        return [value for number, value in self.fields if number == field and isinstance(value, bytes)]

    def with_inputs(self, inputs: Sequence[Node]) -> Node:
        """Return it with other children in the same places."""
        fields = (field for field, _child in self.children)
        return replace(self, children=tuple(zip(fields, inputs, strict=True)))

    def with_field(self, field: int, *values: int | bytes) -> Node:
        """Return it with other values of one field."""
        kept = tuple(each for each in self.fields if each[0] != field)
        return replace(self, fields=kept + tuple((field, value) for value in values))

    def walk(self) -> Iterator[Node]:
        """Yield it and all below it."""
        yield self
        for _field, child in self.children:
            yield from child.walk()


def decode(data: bytes) -> Node:
    """Return the tree of an encoded plan. Raises `UnsupportedError` for a node of a kind that is not known here."""
    whole = [each for each in fields_of(data) if each[0] != SEAL]
    if len(whole) != 1 or not isinstance(whole[0][1], bytes):
        raise CorruptError("bytes that are no physical plan", n_fields=len(whole))
    kind, body = whole[0]
    assert isinstance(body, bytes)
    child_fields = CHILD_FIELDS.get(kind)
    if child_fields is None:
        raise UnsupportedError("a plan has a node that only the process which made it can run", node=kind)
    fields: list[Field] = []
    config: list[Field] = []
    children: list[tuple[int, Node]] = []
    for field, value in fields_of(body):
        if field in child_fields and isinstance(value, bytes):
            children.append((field, decode(value)))
        elif field == 1 and kind in SCANS and isinstance(value, bytes):
            config += fields_of(value)  # a message that is there twice is one
        else:
            fields.append((field, value))
    groups = tuple(value for field, value in config if field == 1 and isinstance(value, bytes))
    if kind in SCANS:
        fields.insert(0, (1, join_fields([each for each in config if each[0] != 1])))
    return Node(kind, tuple(fields), tuple(sorted(children, key=lambda each: each[0])), groups=groups)


def encode(node: Node) -> bytes:
    """Return the plan's bytes, each of which is copied once however deep it lies."""
    return b"".join(_parts(node)[0])


def _parts(node: Node) -> tuple[list[bytes], int]:
    """Return a node's bytes in parts, and their length."""
    parts: list[bytes] = []
    size = 0
    for field, child in node.children:
        below, n_bytes = _parts(child)
        head = varint(field << 3 | 2) + varint(n_bytes)
        parts += (head, *below)
        size += len(head) + n_bytes
    fields = list(node.fields)
    if node.kind in SCANS:
        groups = join_fields([(1, group) for group in node.groups])
        fields = [(1, groups + value) if field == 1 and isinstance(value, bytes) else (field, value)
                  for field, value in fields]  # fmt: skip
    own = _joined(fields)
    size += sum(map(len, own))
    head = varint(node.kind << 3 | 2) + varint(size)
    return [head, *parts, *own], len(head) + size


def fields_of(data: bytes) -> Iterator[Field]:
    """Yield a message's fields; those of fixed width as their bytes, whose number is then negative."""
    at, limit = 0, len(data)
    while at < limit:
        tag, at = _read_varint(data, at)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _read_varint(data, at)
            yield field, value
            continue
        if wire == 2:
            size, at = _read_varint(data, at)
        elif wire in (1, 5):
            size, field = (8 if wire == 1 else 4), -field
        else:
            raise CorruptError("bytes that are no protobuf message", wire_type=wire)
        if at + size > limit:
            raise CorruptError("a protobuf message that ends too early", missing=at + size - limit)
        yield field, data[at : at + size]
        at += size


def join_fields(fields: Sequence[Field]) -> bytes:
    """Return the message of fields as `fields_of` gives them."""
    return b"".join(_joined(fields))


def _joined(fields: Sequence[Field]) -> list[bytes]:
    parts: list[bytes] = []
    for field, value in fields:
        if isinstance(value, int):
            parts += (varint(field << 3), varint(value))
        elif field < 0:
            parts += (varint(-field << 3 | (1 if len(value) == 8 else 5)), value)
        else:
            parts += (varint(field << 3 | 2), varint(len(value)), value)
    return parts


def varint(value: int) -> bytes:
    """Return a number as protobuf writes it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise CorruptError("bytes that are no protobuf message", at=at)
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
