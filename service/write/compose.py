"""Queries made of pieces of a statement, so that an error in a piece is told at its place in the statement.

A query that feeds a write is text of ours around the user's own expressions. `Text` remembers which of its characters
come from where; `Text.blame` moves an error's line and column back.
"""

from __future__ import annotations

import decimal
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from service.cursor import Span
from service.lexer import place, tokenize
from storage.errors import FirnlineError

__all__ = ["Text", "quoted"]


_DECIMAL = re.compile(r"[+-]?\s*(?=[\d.]{2,39}$)(?:\d+\.\d*|\.\d+)")
_OURS = re.compile(r",? (?:\w+\.)?firn_\w+(?=[,;]|$)")
"""Columns of ours in a list of those there are."""


def quoted(*names: str) -> str:
    """Return the names as quoted identifiers joined by dots."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


@dataclass
class Text:
    """A query in the making. ``sql`` is the statement that the pieces are of."""

    sql: str
    parts: list[str] = field(default_factory=list)
    bound: dict[str, Any] = field(default_factory=dict)
    """Parameters of our own."""
    _length: int = 0
    _spans: list[tuple[int, Span]] = field(default_factory=list)

    def add(self, *pieces: str | Span) -> Text:
        """Append text of ours, and pieces of the statement."""
        for piece in pieces:
            if isinstance(piece, Span):
                self._spans.append((self._length, piece))
                text = self.sql[piece.start : piece.limit]
            else:
                text = piece
            self.parts.append(text)
            self._length += len(text)
        return self

    def exact(self, piece: str | Span, column: pa.Field) -> str | Span:
        """Return what stands for a value of the column: a literal with digits behind its point goes into a decimal
        column as it is written, since the engine would make a float of it."""
        if isinstance(piece, str) or not pa.types.is_decimal(column.type):
            return piece
        text = self.sql[piece.start : piece.limit].strip()
        if not _DECIMAL.fullmatch(text):
            return piece
        name = f"firn_exact_{piece.start}"
        self.bound[name] = decimal.Decimal(re.sub(r"\s", "", text))
        return f"${name}"

    def append(self, other: Text) -> Text:
        """Append a whole text, whose pieces keep their places."""
        for start, span in other._spans:
            self._spans.append((self._length + start, span))
        self.parts += other.parts
        self.bound |= other.bound
        self._length += other._length
        return self

    @property
    def text(self) -> str:
        """The query."""
        return "".join(self.parts)

    def params(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of the statement's parameters that the query uses."""
        if not given:
            return {}
        used = set()
        tokens = tokenize(self.text)
        for position, token in enumerate(tokens):
            if token.kind == "param":
                used.add(token.text[1:])
            elif token.kind == "word" and position and tokens[position - 1].text == ":":
                used.add(token.text)
        return {name: value for name, value in given.items() if name in used}

    def blame(self, error: FirnlineError) -> FirnlineError:
        """Move the error's place from the query to the statement, or leave it out where it is in text of ours."""
        error.message = _OURS.sub("", error.message)
        line, column = error.facts.get("line"), error.facts.get("column")
        if not isinstance(line, int) or not isinstance(column, int):
            return error
        offset = 0
        text = self.text
        for _ in range(line - 1):
            offset = text.find("\n", offset) + 1
        offset += column - 1
        error.facts.pop("line")
        error.facts.pop("column")
        for start, span in self._spans:
            if start <= offset < start + span.limit - span.start or offset == start:
                error.facts.update(place(self.sql, span.start + offset - start))
                break
        return error
