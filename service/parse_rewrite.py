"""Where a statement names tables in ways that DataFusion lacks, and its parameters: its text as DataFusion takes it.

Rewritten, always in place and so that the line and column of everything behind stay true:

* ``delta('…')``, ``iceberg('…')``, ``parquet('…')`` after FROM, JOIN or a comma become a generated name;
* ``table_changes('t', from, to)`` likewise, see `service.changes`;
* ``gap_fill((query), 't', '1 hour')`` likewise, whose query is parsed by itself, see `service.gap_fill`;
* ``t FOR VERSION AS OF n`` and ``t FOR TIMESTAMP AS OF '…'`` likewise, and keep ``t`` as their alias;
* ``:name`` becomes ``$name``, but not the colon of a slice, a map or a struct.
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from service.cursor import Cursor, Span
from service.lexer import Token, place
from service.parameters import given, named
from service.parsed import Parsed, TableRef
from storage.errors import InvalidError, SqlError, TooLargeError
from storage.tables.snapshot import At

__all__ = ["FORMATS", "Rewriter", "timestamp_ms"]

FORMATS = ("delta", "iceberg", "parquet")
_GAPS_MAX = 16
_BEFORE_TABLE = ("FROM", "JOIN", "LATERAL", "DESCRIBE", "DESC")
_AFTER_TABLE = (
    "WHERE", "ON", "JOIN", "LEFT", "RIGHT", "FULL", "INNER", "CROSS", "NATURAL", "GROUP", "ORDER", "HAVING", "LIMIT",
    "OFFSET", "FETCH", "UNION", "EXCEPT", "INTERSECT", "USING", "WINDOW", "QUALIFY", "LATERAL", "TABLESAMPLE", "SEMI",
    "ANTI", "FOR", "SET", "UNPIVOT", "PIVOT", "ASOF", "MINUS", "SORT", "CLUSTER", "DISTRIBUTE", "CONNECT", "START",
    "OUTER",
)  # fmt: skip


class Rewriter:
    """Walks the tokens once, from ``start`` on, and collects replacements.

    parse_part : parses a query that is part of the statement; the text before it is blank
    parts : where such queries are
    used_names : parameters that were rewritten, or are those of parts
    """

    def __init__(
        self, sql: str, tokens: list[Token], params: Sequence[Any] | Mapping[str, Any] | None,
        parse_part: Callable[[str], Parsed], start: int = 0,
    ) -> None:  # fmt: skip
        self.sql, self.tokens, self.params, self.start = sql, tokens, params, start
        self._parse_part = parse_part
        self.named = named(params)
        self.parts: list[Span] = []
        self.refs: dict[str, TableRef] = {}
        taken = {token.name for token in tokens if token.kind in ("word", "quoted")}
        self._unused = (name for name in map("_t{}".format, itertools.count()) if name not in taken)
        self._inside = _brackets(tokens)
        self.edits: list[tuple[int, int, str]] = []
        self.used_names: set[str] = set()

    def run(self) -> tuple[str, dict[str, TableRef]]:
        """Return the text for DataFusion, and what its generated names mean. Raises what `service.parse.parse` does."""
        position = self.start
        while position < len(self.tokens):
            position = self._rewritten(position) or position + 1
        text = self.sql
        for start, limit, replacement in reversed(self.edits):
            removed = text[start:limit]
            lines = removed.count("\n")
            padding = "\n" * lines + " " * (
                len(removed) - removed.rfind("\n") - 1 if lines else len(removed) - len(replacement)
            )
            text = text[:start] + replacement + padding + text[limit:]
        return text, self.refs

    def _rewritten(self, position: int) -> int | None:
        token = self.tokens[position]
        if token.kind == "symbol":
            return self._param(position) if token.text == ":" else None
        if token.kind not in ("word", "quoted") or not self._may_be_table(position):
            return None
        rewrite = (self._function, self._changes, self._gaps, self._travel)
        return next((behind for each in rewrite if (behind := each(position)) is not None), None)

    def _at(self, position: int) -> Token | None:
        return self.tokens[position] if 0 <= position < len(self.tokens) else None

    def _may_be_table(self, position: int) -> bool:
        before = self._at(position - 1)
        return before is not None and (
            before.is_word(*_BEFORE_TABLE) or (before.kind == "symbol" and before.text in ",(")
        )

    def _function(self, position: int) -> int | None:
        """``delta('…')`` where a table may stand; returns the position behind it."""
        token, opening = self._at(position), self._at(position + 1)
        if token is None or token.kind != "word" or token.name not in FORMATS or opening is None or opening.text != "(":
            return None
        argument, closing = self._at(position + 2), self._at(position + 3)
        if argument is None or argument.kind != "string" or closing is None or closing.text != ")":
            raise SqlError(f"write {token.name}('location') with one string", **place(self.sql, token.start))
        ref = TableRef(format=token.name, location=argument.text)  # type: ignore[arg-type]
        return self._replace(position, position + 4, ref, None)

    def _changes(self, position: int) -> int | None:
        """``table_changes('[ns.]t', from [, to])`` where a table may stand; returns the position behind it."""
        token, opening = self._at(position), self._at(position + 1)
        if token is None or token.kind != "word" or token.name != "table_changes":
            return None
        if opening is None or opening.text != "(":
            return None
        cursor = Cursor(self.sql, self.tokens, position + 2)
        parts = cursor.string().split(".")
        if not all(parts) or len(parts) > 2:
            raise SqlError("write table_changes('schema.table', version)", **place(self.sql, token.start))
        cursor.expect(",")
        start = cursor.integer("the first version")
        limit = cursor.integer("the last version") if cursor.skip(",") else None
        cursor.expect(")")
        namespace = parts[0] if len(parts) == 2 else None
        ref = TableRef(namespace=namespace, name=parts[-1], changes=(start, limit))
        return self._replace(position, cursor.position, ref, None)

    def _gaps(self, position: int) -> int | None:
        """``gap_fill((query), 'time', 'width', …)`` where a table may stand; returns the position behind it."""
        token, opening = self._at(position), self._at(position + 1)
        if token is None or token.kind != "word" or token.name != "gap_fill":
            return None
        if opening is None or opening.text != "(":
            return None
        # Imported here: most statements fill no gaps.
        from service.parse_gap_fill import read_call

        cursor = Cursor(self.sql, self.tokens, position + 2)
        part, gaps, used = read_call(cursor, given(self.params))
        text = self.sql[part.start : part.limit]
        if len(re.findall("gap_fill", text, re.IGNORECASE)) > _GAPS_MAX:
            raise TooLargeError("calls of gap_fill are nested too deeply", limit=_GAPS_MAX)
        # Lines and columns of the query stay those of the statement.
        query = self._parse_part(re.sub(r"[^\n]", " ", self.sql[: part.start]) + text)
        if query.kind != "query" or query.tokens[0].is_word("EXPLAIN", "SHOW", "DESCRIBE", "DESC"):
            raise SqlError("gap_fill takes a query", **place(self.sql, query.tokens[0].start))
        self.used_names |= query.params.keys() | used
        self.parts.append(part)
        return self._replace(position, cursor.position, TableRef(filled=(query, gaps)), None)

    def _travel(self, position: int) -> int | None:
        """``[ns.]table FOR VERSION AS OF …``; returns the position behind it."""
        first = self._at(position)
        if first is None:
            return None
        end, parts = position + 1, [first]
        while (dot := self._at(end)) is not None and dot.text == "." and len(parts) < 3:
            part = self._at(end + 1)
            if part is None or part.kind not in ("word", "quoted"):
                return None
            parts.append(part)
            end += 2
        if self._clause(end) is None:
            return None
        namespace = parts[-2].name if len(parts) > 1 else None
        ref = TableRef(namespace=namespace, name=parts[-1].name)
        return self._replace(position, end, ref, parts[-1].name)

    def _clause(self, position: int) -> tuple[str, int] | None:
        """Return ("VERSION" or "TIMESTAMP", position of the value) if a time-travel clause begins here."""
        token = self._at(position)
        if token is not None and token.is_word("FOR"):
            position += 1
            token = self._at(position)
        if token is None or not token.is_word("VERSION", "TIMESTAMP", "SYSTEM_VERSION", "SYSTEM_TIME"):
            return None
        following = (self._at(position + 1), self._at(position + 2))
        if (
            following[0] is None
            or not following[0].is_word("AS")
            or following[1] is None
            or not following[1].is_word("OF")
        ):
            return None
        return ("VERSION" if "VERSION" in token.text.upper() else "TIMESTAMP"), position + 3

    def _replace(self, start: int, limit: int, ref: TableRef, alias: str | None) -> int:
        clause = self._clause(limit)
        if clause is not None:
            at, limit = self._value(*clause)
            ref = replace(ref, at=at)
        following = self._at(limit)
        has_alias = following is not None and (
            following.is_word("AS") or following.kind == "quoted"
            or (following.kind == "word" and not following.is_word(*_AFTER_TABLE))
        )  # fmt: skip
        generated = next(self._unused)
        self.refs[generated] = ref
        text = generated
        if alias is not None and not has_alias:
            text += ' AS "' + alias.replace('"', '""') + '"'
        self.edits.append((self.tokens[start].start, self.tokens[limit - 1].limit, text))
        return limit

    def _value(self, kind: str, position: int) -> tuple[At, int]:
        token = self._at(position)
        if token is not None and token.is_word("TIMESTAMP"):
            position += 1
            token = self._at(position)
        if token is None:
            raise SqlError(f"{kind} AS OF needs a value", line=None)
        if kind == "VERSION":
            if token.kind == "number" and token.text.isdecimal():
                return At(version=int(token.text)), position + 1
            if token.kind == "string":
                number = token.text.isdecimal()
                return (At(version=int(token.text)) if number else At(ref=token.text)), position + 1
            raise SqlError(
                "VERSION AS OF needs a version number, a snapshot id, or the name of a branch or tag",
                **place(self.sql, token.start),
            )
        if token.kind != "string":
            raise SqlError(
                "TIMESTAMP AS OF needs a string such as '2026-01-31T12:00:00Z'", **place(self.sql, token.start)
            )
        return At(timestamp_ms=timestamp_ms(self.sql, token)), position + 1

    def _param(self, position: int) -> int | None:
        colon, word = self._at(position), self._at(position + 1)
        if colon is None or colon.text != ":" or word is None or word.start != colon.limit or word.kind != "word":
            return None
        if self._separates(position):
            return None
        if word.text not in self.named:
            raise InvalidError("the statement uses a parameter that params does not give", parameter=f":{word.text}")
        self.edits.append((colon.start, word.limit, f"${word.text}"))
        self.used_names.add(word.text)
        return position + 2

    def _separates(self, position: int) -> bool:
        """Tell whether the colon stands between two parts of a slice, a map or a struct."""
        before = self._at(position - 1)
        if self._inside[position] not in ("[", "{") or before is None:
            return False
        if before.kind == "word":
            return before.limit == self.tokens[position].start
        return before.kind != "symbol" or before.text in (")", "]", "}")


def _brackets(tokens: Sequence[Token]) -> list[str]:
    """Return for each token the innermost bracket that is open there, or an empty string."""
    opened, inside = [""], []
    for token in tokens:
        inside.append(opened[-1])
        if token.kind == "symbol" and token.text in "([{":
            opened.append(token.text)
        elif token.kind == "symbol" and token.text in ")]}" and len(opened) > 1:
            opened.pop()
    return inside


def timestamp_ms(sql: str, token: Token) -> int:
    """Return the moment that a string names, in ms since 1970; UTC where it has no zone. Raises `SqlError`."""
    try:
        moment = dt.datetime.fromisoformat(token.text.strip())
    except ValueError:
        raise SqlError(
            f"{token.text!r} is no timestamp; write one such as '2026-01-31T12:00:00Z'", **place(sql, token.start)
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(milliseconds=1)
