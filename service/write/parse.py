"""A statement that writes, from tokens to what it asks for."""

from __future__ import annotations

from service.cursor import Cursor
from service.parse_rewrite import timestamp_ms
from service.parsed import Parsed
from service.write import parse_ddl, parse_dml, parse_index
from service.write.statements import Optimize, Restore, Vacuum, Write
from storage.errors import UnsupportedError

__all__ = ["explained", "parse_write"]


def parse_write(parsed: Parsed) -> Write:
    """Return what the statement asks for, its EXPLAIN left out.

    Raises
    ------
    SqlError
        it is malformed; with line and column
    UnsupportedError
        understood, and refused by name
    """
    cursor = Cursor(parsed.sql, parsed.tokens, explained(parsed))
    word = cursor.name("a statement").upper()
    match word:
        case "CREATE":
            return _create(cursor)
        case "DROP":
            if cursor.skip("INDEX"):
                return parse_index.drop_index(cursor)
            cursor.skip("EXTERNAL")
            cursor.expect("TABLE")
            return parse_ddl.drop_table(cursor)
        case "ALTER":
            return parse_ddl.alter_table(cursor)
        case "TRUNCATE":
            return parse_ddl.truncate(cursor)
        case "INSERT":
            return parse_dml.insert(cursor)
        case "UPDATE":
            return parse_dml.update(cursor)
        case "DELETE":
            return parse_dml.delete(cursor)
        case "MERGE":
            return parse_dml.merge(cursor)
        case "COPY":
            return parse_dml.copy(cursor)
        case "OPTIMIZE":
            return _optimize(cursor)
        case "VACUUM":
            return _vacuum(cursor)
        case "RESTORE":
            return _restore(cursor)
        case _:
            cursor.position = 0
            raise cursor.error("expected a statement that writes")


def explained(parsed: Parsed) -> int:
    """Return how many tokens belong to the statement's EXPLAIN."""
    if not parsed.tokens[0].is_word("EXPLAIN"):
        return 0
    if len(parsed.tokens) > 1 and parsed.tokens[1].is_word("ANALYZE"):
        raise UnsupportedError("EXPLAIN ANALYZE would run the statement, which writes; use EXPLAIN")
    position = 1
    while position < len(parsed.tokens) and parsed.tokens[position].is_word("VERBOSE"):
        position += 1
    return position


def _create(cursor: Cursor) -> Write:
    if cursor.at("OR"):
        raise UnsupportedError(
            "CREATE OR REPLACE is not supported; DROP TABLE IF EXISTS first, or INSERT OVERWRITE to replace the rows"
        )
    if cursor.at("UNIQUE", "INDEX"):
        raise UnsupportedError("a unique index is not supported; PRIMARY KEY in CREATE TABLE keeps keys apart")
    if cursor.skip("INDEX"):
        return parse_index.create_index(cursor)
    cursor.expect("TABLE")
    return parse_ddl.create_table(cursor)


def _optimize(cursor: Cursor) -> Optimize:
    cursor.skip("TABLE")
    table = cursor.table_name()
    if cursor.at("ZORDER"):
        raise UnsupportedError("ZORDER BY is not supported; ORDER BY in CREATE TABLE says how rows are sorted")
    where = cursor.until(what="a condition") if cursor.skip("WHERE") else None
    cursor.end()
    return Optimize(table, where)


def _vacuum(cursor: Cursor) -> Vacuum:
    cursor.skip("TABLE")
    table = cursor.table_name()
    hours: float | None = None
    if cursor.skip("RETAIN"):
        token = cursor.peek()
        if token is None or token.kind != "number":
            cursor.fail("expected a number of hours")
        cursor.position += 1
        hours = float(token.text)
        if not cursor.skip("HOURS"):
            cursor.expect("HOUR")
    dry_run = cursor.skip_all("DRY", "RUN")
    cursor.end()
    return Vacuum(table, hours, dry_run)


def _restore(cursor: Cursor) -> Restore:
    cursor.skip("TABLE")
    table = cursor.table_name()
    cursor.expect("TO")
    if cursor.skip("VERSION"):
        _ = cursor.skip_all("AS", "OF")
        version = cursor.integer("the number of a version, as SHOW HISTORY has it")
        cursor.end()
        return Restore(table, version=version)
    if not cursor.skip("TIMESTAMP"):
        cursor.fail("expected VERSION or TIMESTAMP")
    _ = cursor.skip_all("AS", "OF")
    token = cursor.peek()
    cursor.string()
    cursor.end()
    assert token is not None
    return Restore(table, timestamp_ms=timestamp_ms(cursor.sql, token))
