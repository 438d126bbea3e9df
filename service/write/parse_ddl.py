"""CREATE TABLE, DROP TABLE, TRUNCATE and ALTER TABLE, parsed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from service.cursor import Cursor, TableName
from service.write.statements import (
    AddColumn,
    AlterTable,
    AlterType,
    CreateTable,
    DropColumn,
    DropTable,
    Partition,
    RenameColumn,
    RenameTable,
    SetProperties,
    Sort,
    Truncate,
)
from service.write.types import read_type
from storage.errors import UnsupportedError

__all__ = ["alter_table", "create_table", "drop_table", "truncate"]

FORMATS = ("delta", "iceberg")
_TRANSFORMS = {
    "year": "year", "years": "year", "month": "month", "months": "month", "day": "day", "days": "day", "date": "day",
    "hour": "hour", "hours": "hour", "date_hour": "hour",
}  # fmt: skip
_CONSTRAINTS = ("CONSTRAINT", "UNIQUE", "CHECK", "FOREIGN")


def create_table(cursor: Cursor) -> CreateTable:
    """Read what stands behind CREATE TABLE."""
    if_not_exists = cursor.skip_all("IF", "NOT", "EXISTS")
    table = cursor.table_name()
    columns: _Columns | None = None
    if cursor.at("(") and not _is_query(cursor, 1):
        columns = _columns(cursor)
    clauses = _Clauses()
    while _clause(cursor, clauses):
        pass
    source = None
    if cursor.skip("AS"):
        if columns is not None and not columns.only_key:
            cursor.fail("the columns of CREATE TABLE … AS are those of its query; leave the list out")
        source = cursor.rest("a query")
    cursor.end()
    if source is None and (columns is None or not columns.fields):
        cursor.fail("expected columns, (name type, …), or AS and a query")
    key = columns.primary_key if columns else ()
    return CreateTable(
        table, None if source or columns is None else tuple(columns.fields), key or clauses.primary_key, clauses.format,
        clauses.partition_by, clauses.order_by, clauses.properties, source, if_not_exists,
    )  # fmt: skip


@dataclass
class _Columns:
    fields: list[pa.Field] = field(default_factory=list)
    primary_key: tuple[str, ...] = ()

    @property
    def only_key(self) -> bool:
        return not self.fields


@dataclass
class _Clauses:
    format: str = "delta"
    partition_by: tuple[Partition, ...] = ()
    order_by: tuple[Sort, ...] = ()
    primary_key: tuple[str, ...] = ()
    properties: dict[str, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)


def _is_query(cursor: Cursor, ahead: int) -> bool:
    token = cursor.peek(ahead)
    return token is not None and token.is_word("SELECT", "WITH", "VALUES")


def _columns(cursor: Cursor) -> _Columns:
    found = _Columns()
    cursor.expect("(")
    while True:
        token = cursor.peek()
        if token is not None and token.is_word("PRIMARY"):
            _set_key(cursor, found, _key(cursor))
        elif token is not None and token.is_word(*_CONSTRAINTS):
            raise UnsupportedError(f"{token.text.upper()} is not supported; a table may have one PRIMARY KEY")
        else:
            _column(cursor, found)
        if not cursor.skip(","):
            break
    cursor.expect(")")
    return found


def _key(cursor: Cursor) -> tuple[str, ...]:
    cursor.expect("PRIMARY")
    cursor.expect("KEY")
    return cursor.names()


def _set_key(cursor: Cursor, found: _Columns, names: tuple[str, ...]) -> None:
    if found.primary_key:
        cursor.fail("the table has two primary keys; write PRIMARY KEY (a, b)")
    found.primary_key = names


def _column(cursor: Cursor, found: _Columns) -> None:
    name = cursor.name("the name of a column")
    if any(each.name.lower() == name.lower() for each in found.fields):
        cursor.fail(f"the table has two columns {name}")
    kind = read_type(cursor)
    nullable = True
    while True:
        if cursor.skip_all("NOT", "NULL"):
            nullable = False
        elif cursor.skip("NULL"):
            nullable = True
        elif cursor.skip_all("PRIMARY", "KEY"):
            _set_key(cursor, found, (name,))
        elif (token := cursor.peek()) is not None and token.is_word(
            "DEFAULT", "UNIQUE", "CHECK", "REFERENCES", "GENERATED", "COLLATE", "COMMENT", "AS", "IDENTITY"
        ):
            raise UnsupportedError(
                f"{token.text.upper()} of a column is not supported; NOT NULL and PRIMARY KEY are", column=name
            )
        else:
            break
    found.fields.append(pa.field(name, kind, nullable))


def _clause(cursor: Cursor, into: _Clauses) -> bool:
    """Read one clause behind the columns; False if none stands here."""
    if cursor.skip("USING"):
        _once(cursor, into, "USING")
        into.format = cursor.name("delta or iceberg")
        if into.format not in FORMATS:
            raise UnsupportedError("unknown table format; use delta or iceberg", format=into.format)
    elif cursor.skip("PARTITIONED") or cursor.skip("PARTITION"):
        _once(cursor, into, "PARTITIONED BY")
        cursor.expect("BY")
        into.partition_by = _listed(cursor, _partition)
    elif cursor.skip("ORDER") or cursor.skip("SORT"):
        _once(cursor, into, "ORDER BY")
        cursor.expect("BY")
        into.order_by = _listed(cursor, _sort)
    elif cursor.at("PRIMARY"):
        _once(cursor, into, "PRIMARY KEY")
        into.primary_key = _key(cursor)
    elif cursor.skip("WITH") or cursor.skip("TBLPROPERTIES") or cursor.skip("OPTIONS"):
        _once(cursor, into, "WITH")
        into.properties = cursor.pairs()
    elif cursor.at("LOCATION"):
        raise UnsupportedError(
            "a table's files lie in the lake, so LOCATION is not supported; "
            "CREATE EXTERNAL TABLE reads files that lie elsewhere"
        )
    else:
        return False
    return True


def _once(cursor: Cursor, into: _Clauses, clause: str) -> None:
    if clause in into.seen:
        cursor.fail(f"{clause} stands here twice")
    into.seen.add(clause)


def _listed(cursor: Cursor, read: object) -> tuple:  # type: ignore[type-arg]
    bracket = cursor.skip("(")
    found = [read(cursor)]  # type: ignore[operator]
    while cursor.skip(","):
        found.append(read(cursor))  # type: ignore[operator]
    if bracket:
        cursor.expect(")")
    return tuple(found)


def _partition(cursor: Cursor) -> Partition:
    name = cursor.name("a column or a transform")
    if not cursor.skip("("):
        return Partition(name)
    if name in ("bucket", "truncate"):
        width, column = _width_and_column(cursor)
        if not 1 <= width < 1 << 31:
            cursor.fail(f"{name} needs a number from 1")
        return Partition(column, f"{name}[{width}]")
    if name not in _TRANSFORMS:
        cursor.position -= 2
        cursor.fail("expected a column, bucket(n, column), truncate(n, column), year, month, day or hour(column)")
    column = cursor.name("the name of a column")
    cursor.expect(")")
    return Partition(column, _TRANSFORMS[name])


def _width_and_column(cursor: Cursor) -> tuple[int, str]:
    token = cursor.peek()
    if token is not None and token.kind == "number":
        width = cursor.integer("a number")
        cursor.expect(",")
        column = cursor.name("the name of a column")
    else:
        column = cursor.name("a number, then the name of a column")
        cursor.expect(",")
        width = cursor.integer("a number")
    cursor.expect(")")
    return width, column


def _sort(cursor: Cursor) -> Sort:
    name = cursor.name("the name of a column")
    descending = not cursor.skip("ASC") and cursor.skip("DESC")
    if cursor.at("NULLS"):
        raise UnsupportedError("NULLS FIRST or LAST is not supported: nulls come first ascending and last descending")
    return Sort(name, descending)


def drop_table(cursor: Cursor) -> DropTable:
    """Read what stands behind DROP [EXTERNAL] TABLE."""
    if_exists = cursor.skip_all("IF", "EXISTS")
    table = cursor.table_name()
    purge = cursor.skip("PURGE")
    if not purge:
        _ = cursor.skip("CASCADE") or cursor.skip("RESTRICT")
    cursor.end()
    return DropTable(table, if_exists, purge)


def truncate(cursor: Cursor) -> Truncate:
    """Read what stands behind TRUNCATE."""
    cursor.skip("TABLE")
    table = cursor.table_name()
    cursor.end()
    return Truncate(table)


def alter_table(cursor: Cursor) -> AlterTable:
    """Read what stands behind ALTER."""
    cursor.expect("TABLE")
    table = cursor.table_name()
    statement = AlterTable(table, _action(cursor, table))
    cursor.end()
    return statement


def _action(
    cursor: Cursor, table: TableName
) -> AddColumn | DropColumn | RenameColumn | AlterType | RenameTable | SetProperties:
    if cursor.skip("ADD"):
        return _add_column(cursor)
    if cursor.skip("DROP"):
        cursor.skip("COLUMN")
        if_exists = cursor.skip_all("IF", "EXISTS")
        return DropColumn(cursor.name("the name of a column"), if_exists)
    if cursor.skip("RENAME"):
        if cursor.skip("TO"):
            start = cursor.position
            new = cursor.table_name()
            # A new name without a namespace stays in the table's own.
            return RenameTable(new if cursor.position > start + 1 else (table[0], new[1]))
        cursor.skip("COLUMN")
        old = cursor.name("the name of a column")
        cursor.expect("TO")
        return RenameColumn(old, cursor.name("the new name of the column"))
    if cursor.skip("ALTER") or cursor.skip("CHANGE") or cursor.skip("MODIFY"):
        cursor.skip("COLUMN")
        name = cursor.name("the name of a column")
        cursor.skip_all("SET", "DATA")
        if not cursor.skip("TYPE"):
            raise UnsupportedError("only ALTER COLUMN … TYPE with a wider type is supported", column=name)
        return AlterType(name, read_type(cursor))
    if cursor.skip("SET"):
        cursor.skip("TBLPROPERTIES") or cursor.skip("PROPERTIES")
        return SetProperties(cursor.pairs())
    if cursor.skip("UNSET"):
        cursor.skip("TBLPROPERTIES") or cursor.skip("PROPERTIES")
        return SetProperties(unset=_keys(cursor))
    raise cursor.error("expected ADD, DROP, RENAME, ALTER COLUMN, SET or UNSET")


def _add_column(cursor: Cursor) -> AddColumn:
    cursor.skip("COLUMN")
    if_not_exists = cursor.skip_all("IF", "NOT", "EXISTS")
    found = _Columns()
    _column(cursor, found)
    added = found.fields[0]
    if found.primary_key or not added.nullable:
        raise UnsupportedError(
            "a column that is added is null in the rows there are; leave NOT NULL out", column=added.name
        )
    return AddColumn(added, if_not_exists)


def _keys(cursor: Cursor) -> tuple[str, ...]:
    cursor.expect("(")
    found = []
    while not cursor.skip(")"):
        token = cursor.peek()
        found.append(cursor.string() if token is not None and token.kind == "string" else cursor.dotted())
        if not cursor.skip(","):
            cursor.expect(")")
            break
    return tuple(found)
