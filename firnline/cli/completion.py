"""Completion in the shell: keywords, functions of ours, and the catalog's tables and columns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from firnline.cli.meta import COMMANDS
from firnline.connection import Connection
from storage.errors import FirnlineError

__all__ = ["Names", "SqlCompleter"]

_KEYWORDS = (
    "SELECT", "FROM", "WHERE", "GROUP", "BY", "ORDER", "HAVING", "LIMIT", "OFFSET", "JOIN", "LEFT", "RIGHT",
    "FULL", "INNER", "OUTER", "CROSS", "ON", "USING", "AS", "AND", "OR", "NOT", "IN", "IS", "NULL", "LIKE",
    "ILIKE", "BETWEEN", "EXISTS", "CASE", "WHEN", "THEN", "ELSE", "END", "DISTINCT", "UNION", "ALL",
    "INTERSECT", "EXCEPT", "WITH", "RECURSIVE", "VALUES", "CAST", "INTERVAL", "DATE", "TIMESTAMP", "OVER",
    "PARTITION", "QUALIFY", "EXPLAIN", "ANALYZE", "SHOW", "TABLES", "SCHEMAS", "DESCRIBE", "CREATE",
    "EXTERNAL", "TABLE", "SCHEMA", "STORED", "LOCATION", "DROP", "IF", "FOR", "VERSION", "OF", "ASC", "DESC",
    "NULLS", "FIRST", "LAST", "TRUE", "FALSE", "PARQUET", "DELTA", "ICEBERG", "COUNT", "SUM", "AVG", "MIN",
    "MAX", "COALESCE", "ROUND",
)  # fmt: skip
_COLUMNS = """
SELECT table_schema, table_name, column_name FROM information_schema.columns
WHERE table_schema <> 'information_schema'
"""
_COLUMNS_MAX = 20_000


class Names:
    """The catalog's names, loaded in the background when `refresh` is called."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._thread: threading.Thread | None = None
        self.tables: dict[str, list[str]] = {}

    def refresh(self) -> None:
        """Start to load the names anew, unless that goes on already."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._load, daemon=True)
            self._thread.start()

    def _load(self) -> None:
        found: dict[str, list[str]] = {}
        try:
            for row in self._connection.sql("SHOW TABLES").to_pylist():
                found[_qualified(row["namespace"], row["name"])] = []
            columns = self._connection.sql(_COLUMNS, max_rows=_COLUMNS_MAX).to_pylist()
        except (FirnlineError, KeyError):
            columns = []  # a shell without completion is a shell
        for row in columns:
            found.setdefault(_qualified(row["table_schema"], row["table_name"]), []).append(row["column_name"])
        self.tables = found


def _qualified(namespace: str, name: str) -> str:
    return name if namespace == "default" else f"{namespace}.{name}"


class SqlCompleter(Completer):
    """Completes the word before the cursor; after ``table.`` its columns, after a backslash the commands."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield what may stand here."""
        text = document.text_before_cursor
        if text.startswith("\\"):
            yield from self._commands(text)
            return
        word = _word(text)
        if not word and not complete_event.completion_requested:
            return
        for candidate, meta in self._candidates(word):
            yield Completion(candidate, start_position=-len(word), display_meta=meta)

    def _commands(self, text: str) -> Iterable[Completion]:
        if " " not in text:
            for name in dict.fromkeys(command for command, _arguments, _doc in COMMANDS):
                if name.startswith(text):
                    yield Completion(name, start_position=-len(text))
            return
        word = text.rpartition(" ")[2]
        if text.startswith((r"\d ", r"\dt ")):
            for table in _starting(self._names.tables, word, str):
                yield Completion(table, start_position=-len(word))

    def _candidates(self, word: str) -> Iterable[tuple[str, str]]:
        tables = self._names.tables
        table, dot, part = word.rpartition(".")
        if dot and table in tables:
            yield from ((f"{table}.{name}", "column") for name in _starting(tables[table], part, str))
        yield from ((name, "table") for name in _starting(tables, word, str))
        if not word or dot:
            return
        columns = {name: table for table, names in tables.items() for name in names}
        yield from ((name, columns[name]) for name in _starting(columns, word, str))
        case: Callable[[str], str] = str.upper if word.isupper() else str.lower
        yield from ((name, "") for name in _starting(_KEYWORDS, word, case))


def _starting(names: Iterable[str], word: str, case: Callable[[str], str]) -> list[str]:
    return sorted({case(name) for name in names if name.lower().startswith(word.lower())})


def _word(text: str) -> str:
    start = len(text)
    while start and (text[start - 1].isalnum() or text[start - 1] in "_."):
        start -= 1
    return text[start:]
