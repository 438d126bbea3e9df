"""INSERT, UPDATE, DELETE, MERGE and COPY, parsed into pieces of text."""

from __future__ import annotations

from service.cursor import Cursor, Span, TableName
from service.write.statements import (
    Assignment,
    CopyFrom,
    CopyTo,
    Delete,
    Insert,
    Merge,
    MergeClause,
    OnConflict,
    Update,
)
from storage.errors import UnsupportedError

__all__ = ["copy", "delete", "insert", "merge", "update"]

_RETURNING = ("RETURNING",)
_NOT_ALIASES = (
    "SET",
    "USING",
    "WHERE",
    "FROM",
    "ON",
    "VALUES",
    "SELECT",
    "WITH",
    "DEFAULT",
    "RETURNING",
    "BY",
    "TABLE",
)


def insert(cursor: Cursor) -> Insert:
    """Read what stands behind INSERT."""
    if cursor.at("OR"):
        raise UnsupportedError("INSERT OR … is not supported; use INSERT … ON CONFLICT DO NOTHING or DO UPDATE")
    overwrite = cursor.skip("OVERWRITE")
    if overwrite:
        _ = cursor.skip("INTO")
    else:
        cursor.expect("INTO")
    cursor.skip("TABLE")
    table = cursor.table_name()
    alias = cursor.name("an alias") if cursor.skip("AS") else None
    columns, by_name = None, False
    if cursor.at("(") and not _is_query(cursor):
        columns = cursor.names()
    elif cursor.skip("BY"):
        cursor.expect("NAME")
        by_name = True
    if cursor.skip("DEFAULT"):
        cursor.expect("VALUES")
        source = None
    else:
        source = cursor.until(("ON", "CONFLICT"), _RETURNING, what="VALUES or a query")
    on_conflict = _on_conflict(cursor) if cursor.skip("ON", "CONFLICT") else None
    _end(cursor)
    if overwrite and on_conflict is not None:
        raise UnsupportedError("INSERT OVERWRITE replaces all rows, so it takes no ON CONFLICT")
    return Insert(table, columns, source, overwrite, on_conflict, alias, by_name)


def _is_query(cursor: Cursor) -> bool:
    ahead = 1
    while (token := cursor.peek(ahead)) is not None and token.text == "(" and token.kind == "symbol":
        ahead += 1
    return token is not None and token.is_word("SELECT", "WITH", "VALUES", "TABLE", "FROM")


def _on_conflict(cursor: Cursor) -> OnConflict:
    columns = cursor.names() if cursor.at("(") else ()
    if cursor.at("ON", "CONSTRAINT") or cursor.at("WHERE"):
        cursor.fail("name the columns of the primary key, ON CONFLICT (a, b)")
    cursor.expect("DO")
    if cursor.skip("NOTHING"):
        return OnConflict(columns)
    cursor.expect("UPDATE")
    cursor.expect("SET")
    assignments = _assignments(cursor, None, ("WHERE",), _RETURNING)
    where = cursor.until(_RETURNING, what="a condition") if cursor.skip("WHERE") else None
    return OnConflict(columns, assignments, where)


def update(cursor: Cursor) -> Update:
    """Read what stands behind UPDATE."""
    table, alias = _target(cursor)
    cursor.expect("SET")
    assignments = _assignments(cursor, alias or table[1], ("FROM",), ("WHERE",), _RETURNING)
    source = cursor.until(("WHERE",), _RETURNING, what="a table") if cursor.skip("FROM") else None
    where = _where(cursor)
    _end(cursor)
    return Update(table, alias, assignments, source, where)


def delete(cursor: Cursor) -> Delete:
    """Read what stands behind DELETE."""
    cursor.expect("FROM")
    table, alias = _target(cursor)
    source = cursor.until(("WHERE",), _RETURNING, what="a table") if cursor.skip("USING") else None
    where = _where(cursor)
    _end(cursor)
    return Delete(table, alias, source, where)


def _where(cursor: Cursor) -> Span | None:
    return cursor.until(_RETURNING, what="a condition") if cursor.skip("WHERE") else None


def _target(cursor: Cursor) -> tuple[TableName, str | None]:
    table = cursor.table_name()
    if cursor.skip("AS"):
        return table, cursor.name("an alias")
    token = cursor.peek()
    if token is not None and (token.kind == "quoted" or (token.kind == "word" and not token.is_word(*_NOT_ALIASES))):
        return table, cursor.name("an alias")
    return table, None


def _assignments(cursor: Cursor, qualifier: str | None, *stops: tuple[str, ...]) -> tuple[Assignment, ...]:
    found: list[Assignment] = []
    while True:
        if cursor.at("("):
            columns = cursor.names()
            cursor.expect("=")
            _ = cursor.skip("ROW")
            found.extend(_row(cursor, columns))
        else:
            column = _assigned(cursor, qualifier)
            cursor.expect("=")
            found.append(Assignment(column, _value(cursor, (",",), *stops)))
        if not cursor.skip(","):
            break
    names = [each.column for each in found]
    for name in names:
        if names.count(name) > 1:
            cursor.fail(f"column {name} is set twice")
    return tuple(found)


def _assigned(cursor: Cursor, qualifier: str | None) -> str:
    parts = [cursor.name("the name of a column")]
    while cursor.skip("."):
        parts.append(cursor.name())
    if len(parts) > 1 and (qualifier is None or parts[:-1] != [qualifier]):
        raise UnsupportedError(
            "only whole columns of the table can be set, not fields of a struct", column=".".join(parts)
        )
    if cursor.at("["):
        raise UnsupportedError("only whole columns can be set, not elements", column=parts[-1])
    return parts[-1]


def _row(cursor: Cursor, columns: tuple[str, ...]) -> list[Assignment]:
    values = _values(cursor)
    if len(values) != len(columns):
        cursor.fail(f"expected {len(columns)} values for {len(columns)} columns")
    return [Assignment(column, value) for column, value in zip(columns, values, strict=True)]


def _values(cursor: Cursor) -> list[Span | None]:
    cursor.expect("(")
    values = [_value(cursor, (",",))]
    while cursor.skip(","):
        values.append(_value(cursor, (",",)))
    cursor.expect(")")
    return values


def _value(cursor: Cursor, *stops: tuple[str, ...]) -> Span | None:
    if cursor.at("DEFAULT"):
        following = cursor.peek(1)
        if following is None or following.text in (",", ")") or following.kind == "word":
            cursor.expect("DEFAULT")
            return None
    return cursor.until(*stops, what="a value")


def merge(cursor: Cursor) -> Merge:
    """Read what stands behind MERGE."""
    cursor.expect("INTO")
    table, alias = _target(cursor)
    cursor.expect("USING")
    start = cursor.position
    source = cursor.until(("ON",), what="a table or a query in brackets")
    source_alias = _alias_of(cursor, start)
    cursor.expect("ON")
    on = cursor.until(("WHEN",), what="a condition")
    clauses = []
    while cursor.skip("WHEN"):
        clauses.append(_when(cursor, alias or table[1]))
    if not clauses:
        cursor.fail("expected WHEN")
    _end(cursor)
    return Merge(table, alias, source, source_alias, on, tuple(clauses))


def _alias_of(cursor: Cursor, start: int) -> str:
    """Return the name of the source, which is the last token before ON, or before the columns of its alias."""
    position = cursor.position - 1
    if cursor.tokens[position].text == ")":
        depth = 0
        for opening in range(position, start - 1, -1):
            token = cursor.tokens[opening]
            depth += (token.text == ")") - (token.text == "(") if token.kind == "symbol" else 0
            if depth == 0:
                position = opening - 1
                break
    token = cursor.tokens[position]
    if position < start or token.kind not in ("word", "quoted"):
        cursor.fail("give the source a name, USING (SELECT …) AS s")
    return token.name


def _when(cursor: Cursor, qualifier: str) -> MergeClause:
    if cursor.skip("MATCHED"):
        return _clause(cursor, "matched", qualifier)
    cursor.expect("NOT")
    cursor.expect("MATCHED")
    if cursor.skip("BY"):
        if cursor.skip("SOURCE"):
            return _clause(cursor, "not matched by source", qualifier)
        cursor.expect("TARGET")
    return _clause(cursor, "not matched", qualifier)


def _clause(cursor: Cursor, when: str, qualifier: str) -> MergeClause:
    condition = cursor.until(("THEN",), what="a condition") if cursor.skip("AND") else None
    cursor.expect("THEN")
    kind: object = when
    if cursor.skip("DO"):
        cursor.expect("NOTHING")
        return MergeClause(kind, condition, "nothing")  # type: ignore[arg-type]
    if when == "not matched":
        cursor.expect("INSERT")
        columns, values = _inserted(cursor)
        return MergeClause(kind, condition, "insert", (), columns, values)  # type: ignore[arg-type]
    if cursor.skip("DELETE"):
        return MergeClause(kind, condition, "delete")  # type: ignore[arg-type]
    cursor.expect("UPDATE")
    if cursor.skip("SET", "*") or cursor.skip("*"):
        if when != "matched":
            cursor.fail("there is no row of the source to take * from; name the columns")
        return MergeClause(kind, condition, "update", None)  # type: ignore[arg-type]
    cursor.expect("SET")
    return MergeClause(kind, condition, "update", _assignments(cursor, qualifier, ("WHEN",), _RETURNING))  # type: ignore[arg-type]


def _inserted(cursor: Cursor) -> tuple[tuple[str, ...] | None, tuple[Span | None, ...] | None]:
    if cursor.skip("*"):
        return None, None
    columns = cursor.names() if cursor.at("(") else None
    cursor.expect("VALUES")
    values = tuple(_values(cursor))
    if columns is not None and len(columns) != len(values):
        cursor.fail(f"expected {len(columns)} values for {len(columns)} columns")
    return columns, values


def copy(cursor: Cursor) -> CopyFrom | CopyTo:
    """Read what stands behind COPY."""
    if cursor.at("("):
        cursor.expect("(")
        query = cursor.until(what="a query")
        cursor.expect(")")
        cursor.expect("TO")
        return CopyTo(query, None, cursor.string(), _copy_options(cursor))
    if cursor.skip("INTO"):
        table = cursor.table_name()
        columns = cursor.names() if cursor.at("(") else None
        cursor.expect("FROM")
        return CopyFrom(table, columns, cursor.string(), _copy_options(cursor))
    table = cursor.table_name()
    columns = cursor.names() if cursor.at("(") else None
    if cursor.skip("FROM"):
        return CopyFrom(table, columns, cursor.string(), _copy_options(cursor))
    if columns is not None or not cursor.at("TO"):
        cursor.fail("expected FROM or TO")
    cursor.expect("TO")
    return CopyTo(None, table, cursor.string(), _copy_options(cursor))


def _copy_options(cursor: Cursor) -> dict[str, str]:
    """Read ``[WITH] (FORMAT csv, HEADER, …)`` or ``STORED AS parquet``."""
    found: dict[str, str] = {}
    if cursor.skip("STORED"):
        cursor.expect("AS")
        found["format"] = cursor.name("a format")
    cursor.skip("WITH")
    if cursor.skip("("):
        while True:
            key = cursor.name("an option").lower()
            token = cursor.peek()
            if key in found:
                cursor.fail(f"option {key} is given twice")
            if token is None or token.text in (",", ")"):
                found[key] = "true"
            else:
                cursor.skip("=")
                token = cursor.peek()
                if token is None or token.kind not in ("string", "word", "number"):
                    cursor.fail("expected a value")
                found[key] = token.text
                cursor.position += 1
            if not cursor.skip(","):
                break
        cursor.expect(")")
    cursor.end()
    return found


def _end(cursor: Cursor) -> None:
    if cursor.at("RETURNING"):
        raise UnsupportedError("RETURNING is not supported; the answer says how many rows there were")
    cursor.end()
