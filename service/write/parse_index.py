"""CREATE INDEX and DROP INDEX, parsed."""

from __future__ import annotations

from service.cursor import Cursor
from service.write.statements import CreateIndex, DropIndex
from storage.errors import UnsupportedError

__all__ = ["create_index", "drop_index"]

KINDS = ("learned", "locator")
_OTHERS = ("btree", "hash", "gin", "gist", "brin", "bitmap", "bloom", "fulltext", "hnsw", "ivfflat", "art", "lsm")


def create_index(cursor: Cursor) -> CreateIndex:
    """Read what stands behind CREATE INDEX."""
    if cursor.skip("CONCURRENTLY"):
        raise UnsupportedError("CONCURRENTLY is not needed: an index is built beside all other statements")
    if_not_exists = cursor.skip_all("IF", "NOT", "EXISTS")
    name = None if cursor.at("ON") and not cursor.at("ON", "ON") else cursor.name("a name, or ON and a table")
    cursor.expect("ON")
    table = cursor.table_name()
    kind = _kind(cursor) if cursor.skip("USING") else None
    columns = _columns(cursor)
    if kind is None and cursor.skip("USING"):
        kind = _kind(cursor)
    options = cursor.pairs() if cursor.skip("WITH") else {}
    if cursor.at("WHERE"):
        raise UnsupportedError("an index of some rows is not supported; leave WHERE out")
    if cursor.at("INCLUDE"):
        raise UnsupportedError("an index says where rows are and holds no columns; leave INCLUDE out")
    cursor.end()
    return CreateIndex(table, name, columns, kind, options, if_not_exists)


def _kind(cursor: Cursor) -> str:
    start = cursor.position
    kind = cursor.name("learned or locator").lower()
    if kind in _OTHERS:
        raise UnsupportedError(
            "an index is learned (files sorted by its columns) or a locator (any order)", found=kind.upper()
        )
    if kind not in KINDS:
        cursor.position = start
        cursor.fail("expected learned or locator")
    return kind


def _columns(cursor: Cursor) -> tuple[str, ...]:
    cursor.expect("(")
    found = []
    while True:
        found.append(cursor.name("the name of a column"))
        if cursor.at("("):
            raise UnsupportedError("an index of an expression is not supported; name columns of the table")
        if cursor.at("DESC"):
            raise UnsupportedError("an index has no direction; leave DESC out")
        cursor.skip("ASC")
        if not cursor.skip(","):
            break
    cursor.expect(")")
    return tuple(found)


def drop_index(cursor: Cursor) -> DropIndex:
    """Read what stands behind DROP INDEX."""
    if_exists = cursor.skip_all("IF", "EXISTS")
    name = cursor.name("the name of an index")
    cursor.expect("ON")
    table = cursor.table_name()
    cursor.end()
    return DropIndex(table, name, if_exists)
