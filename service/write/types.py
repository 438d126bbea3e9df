"""SQL's names of types as Arrow types, of those that a table may have."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from service.cursor import Cursor
from service.lexer import place
from storage.errors import SqlError, UnsupportedError

__all__ = ["read_type", "type_name"]

_PLAIN: dict[str, pa.DataType] = {
    "BOOLEAN": pa.bool_(), "BOOL": pa.bool_(),
    "TINYINT": pa.int8(), "INT1": pa.int8(),
    "SMALLINT": pa.int16(), "INT2": pa.int16(),
    "INT": pa.int32(), "INTEGER": pa.int32(), "INT4": pa.int32(),
    "BIGINT": pa.int64(), "INT8": pa.int64(), "LONG": pa.int64(),
    "REAL": pa.float32(), "FLOAT4": pa.float32(), "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(), "FLOAT8": pa.float64(),
    "STRING": pa.string(), "TEXT": pa.string(), "VARCHAR": pa.string(),
    "BYTEA": pa.binary(), "BINARY": pa.binary(), "BLOB": pa.binary(), "VARBINARY": pa.binary(), "BYTES": pa.binary(),
    "DATE": pa.date32(),
    "TIMESTAMPTZ": pa.timestamp("us", "UTC"), "TIMESTAMP_LTZ": pa.timestamp("us", "UTC"),
    "TIMESTAMP_NTZ": pa.timestamp("us"), "DATETIME": pa.timestamp("us"),
}  # fmt: skip
_REFUSED = {
    "TIME": "TIMESTAMP", "INTERVAL": "BIGINT", "JSON": "TEXT", "JSONB": "TEXT", "VARIANT": "TEXT", "UUID": "TEXT",
    "UNSIGNED": "BIGINT", "UINT": "BIGINT", "UINT8": "SMALLINT", "UINT16": "INT", "UINT32": "BIGINT",
    "UINT64": "DECIMAL(20, 0)", "SERIAL": "BIGINT", "BIGSERIAL": "BIGINT", "HUGEINT": "DECIMAL(38, 0)",
    "GEOMETRY": "BINARY", "GEOGRAPHY": "BINARY", "ENUM": "TEXT", "BIT": "BINARY", "MONEY": "DECIMAL(19, 4)",
    "TIMESTAMP_NS": "TIMESTAMP", "TIMESTAMP_S": "TIMESTAMP", "TIMESTAMP_MS": "TIMESTAMP", "XML": "TEXT",
    "CHAR": "VARCHAR", "CHARACTER": "VARCHAR", "BPCHAR": "VARCHAR",
}  # fmt: skip
_NESTING_MAX = 30


def read_type(cursor: Cursor, depth: int = 0) -> pa.DataType:
    """Read one type, nested ones too.

    Raises
    ------
    SqlError
        what stands here is no type, or a precision is out of range
    UnsupportedError
        a type that no table can have; says what to take in its place
    """
    if depth > _NESTING_MAX:
        cursor.fail(f"a type may be nested {_NESTING_MAX} deep")
    token = cursor.peek()
    if token is None or token.kind != "word":
        cursor.fail("expected a type")
    word = token.text.upper()
    cursor.position += 1
    reader = _COMPOUND.get(word)
    if reader is not None:
        found = reader(cursor, depth)
    elif word in _PLAIN:
        found = _PLAIN[word]
        _length(cursor, word)
    elif word in _REFUSED:
        raise UnsupportedError(
            f"columns of type {word} are not supported; use {_REFUSED[word]}", **place(cursor.sql, token.start)
        )
    else:
        raise SqlError(
            f"unknown type {token.text!r}; see docs/sql.md for those there are", **place(cursor.sql, token.start)
        )
    if cursor.at("UNSIGNED"):
        cursor.fail("unsigned integers are not supported; use a wider signed type")
    while cursor.skip("["):
        cursor.expect("]")
        found = _list(found)
    return found


def _length(cursor: Cursor, word: str) -> None:
    """Skip the ``(n)`` of a VARCHAR, which is not enforced, and refuse it where it would mean something."""
    if word == "DOUBLE":
        cursor.skip("PRECISION")
    if not cursor.at("("):
        return
    if word not in ("VARCHAR", "VARBINARY"):
        cursor.fail(f"{word} takes no length")
    cursor.expect("(")
    cursor.integer("a length")
    cursor.expect(")")


def _decimal(cursor: Cursor, _depth: int) -> pa.DataType:
    if not cursor.at("("):
        return pa.decimal128(38, 10)
    start = cursor.peek()
    cursor.expect("(")
    precision = cursor.integer("the number of digits")
    scale = cursor.integer("the number of digits behind the point") if cursor.skip(",") else 0
    cursor.expect(")")
    if not 1 <= precision <= 38 or scale > precision:
        offset = start.start if start is not None else 0
        raise SqlError(
            "a decimal has 1 to 38 digits, at most all of them behind the point", **place(cursor.sql, offset)
        )
    return pa.decimal128(precision, scale)


def _timestamp(cursor: Cursor, _depth: int) -> pa.DataType:
    if cursor.skip("("):
        if cursor.integer("the number of digits") > 6:
            cursor.fail("timestamps have microseconds; write TIMESTAMP or TIMESTAMP(6)")
        cursor.expect(")")
    if cursor.skip("WITH"):
        cursor.skip("LOCAL")
        for word in ("TIME", "ZONE"):
            cursor.expect(word)
        return pa.timestamp("us", "UTC")
    if cursor.skip("WITHOUT"):
        for word in ("TIME", "ZONE"):
            cursor.expect(word)
    return pa.timestamp("us")


def _list(item: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", item))


def _array(cursor: Cursor, depth: int) -> pa.DataType:
    close = _open(cursor)
    item = read_type(cursor, depth + 1)
    cursor.expect(close)
    return _list(item)


def _map(cursor: Cursor, depth: int) -> pa.DataType:
    close = _open(cursor)
    key = read_type(cursor, depth + 1)
    cursor.expect(",")
    value = read_type(cursor, depth + 1)
    cursor.expect(close)
    return pa.map_(pa.field("key", key, False), pa.field("value", value))


def _struct(cursor: Cursor, depth: int) -> pa.DataType:
    close = _open(cursor)
    fields: list[pa.Field] = []
    while True:
        name = cursor.name("the name of a field")
        cursor.skip(":")
        if any(each.name == name for each in fields):
            cursor.fail(f"the struct has two fields {name}")
        fields.append(pa.field(name, read_type(cursor, depth + 1)))
        if not cursor.skip(","):
            break
    cursor.expect(close)
    return pa.struct(fields)


def _open(cursor: Cursor) -> str:
    if cursor.skip("<"):
        return ">"
    cursor.expect("(")
    return ")"


_COMPOUND: dict[str, Callable[[Cursor, int], pa.DataType]] = {
    "DECIMAL": _decimal, "NUMERIC": _decimal, "DEC": _decimal,
    "TIMESTAMP": _timestamp,
    "ARRAY": _array, "LIST": _array,
    "MAP": _map,
    "STRUCT": _struct, "ROW": _struct,
}  # fmt: skip

_NAMES = {
    pa.bool_(): "BOOLEAN", pa.int8(): "TINYINT", pa.int16(): "SMALLINT", pa.int32(): "INT", pa.int64(): "BIGINT",
    pa.float32(): "REAL", pa.float64(): "DOUBLE", pa.string(): "TEXT", pa.binary(): "BINARY", pa.date32(): "DATE",
    pa.timestamp("us"): "TIMESTAMP", pa.timestamp("us", "UTC"): "TIMESTAMP WITH TIME ZONE",
}  # fmt: skip


def type_name(kind: pa.DataType) -> str:
    """Return the type as one writes it in SQL."""
    if kind in _NAMES:
        return _NAMES[kind]
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    if pa.types.is_map(kind):
        return f"MAP<{type_name(kind.key_type)}, {type_name(kind.item_type)}>"
    if pa.types.is_list(kind):
        return f"ARRAY<{type_name(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return "STRUCT<" + ", ".join(f"{each.name} {type_name(each.type)}" for each in kind) + ">"
    return str(kind)
