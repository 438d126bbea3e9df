"""A parsed statement, and the tables that it names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from service.lexer import Token
from storage.tables.snapshot import At

if TYPE_CHECKING:
    from functions.gap_fill import Gaps

__all__ = ["Parsed", "TableRef"]


@dataclass(frozen=True, slots=True)
class TableRef:
    """A table that a statement names other than by its plain name.

    Either ``format`` and ``location`` (a table function), or ``namespace`` and ``name``; with the version asked for.

    changes : the first and the last version, or None for all, of which `service.changes` gives the changes
    filled : a query, whose gaps `service.gap_fill` fills
    """

    at: At = field(default_factory=At)
    format: Literal["delta", "iceberg", "parquet"] | None = None
    location: str | None = None
    namespace: str | None = None
    name: str | None = None
    changes: tuple[int, int | None] | None = None
    filled: tuple[Parsed, Gaps] | None = None


@dataclass(frozen=True)
class Parsed:
    """kind : "query"; "command" for what `service.commands` runs, "write" for what `service.write` does
    text : for DataFusion; of a write the statement itself, pieces of which become queries
    tokens : of the original text, but for those of a query that is parsed by itself
    refs : generated name → table
    params : name → value, for DataFusion
    explained : offset in ``text`` where the query of an EXPLAIN begins, else 0
    words : every identifier, for finding the tables to load ahead
    """

    kind: Literal["query", "command", "write"]
    sql: str
    text: str
    tokens: list[Token]
    refs: dict[str, TableRef]
    params: dict[str, Any]
    explained: int
    words: frozenset[str]
