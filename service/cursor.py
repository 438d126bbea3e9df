"""Reading a statement token by token, with complaints at the right place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from catalog.tables import DEFAULT_NAMESPACE
from service.lexer import Token, place
from storage.errors import SqlError

__all__ = ["Cursor", "Span", "TableName"]

TableName = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the statement's text: offsets [start, limit)."""

    start: int
    limit: int


class Cursor:
    """A place among a statement's tokens. ``limit`` is the token behind the last one that may be read."""

    def __init__(self, sql: str, tokens: Sequence[Token], position: int = 0, limit: int | None = None) -> None:
        self.sql, self.tokens = sql, tokens
        self.position, self.limit = position, len(tokens) if limit is None else limit

    def peek(self, ahead: int = 0) -> Token | None:
        """Return the token at, or so many behind, the cursor."""
        position = self.position + ahead
        return self.tokens[position] if position < self.limit else None

    def error(self, message: str) -> SqlError:
        """Return an error with what was found instead, and where."""
        token = self.peek()
        offset = token.start if token else self._end_offset()
        found = repr(token.text) if token else "the end of the statement"
        return SqlError(f"{message}, found {found}", **place(self.sql, offset))

    def fail(self, message: str) -> NoReturn:
        """Raise `error`."""
        raise self.error(message)

    def _end_offset(self) -> int:
        return self.tokens[self.limit].start if self.limit < len(self.tokens) else len(self.sql)

    def at(self, *words: str) -> bool:
        """Tell whether these keywords or symbols stand here, one after another."""
        for ahead, word in enumerate(words):
            token = self.peek(ahead)
            if token is None or not (token.is_word(word) or (token.kind == "symbol" and token.text == word)):
                return False
        return True

    def skip(self, *words: str) -> bool:
        """Go on behind these words if all of them stand here."""
        if not self.at(*words):
            return False
        self.position += len(words)
        return True

    def skip_all(self, *words: str) -> bool:
        """Like `skip`, but the first word makes the others obligatory."""
        if not self.skip(words[0]):
            return False
        for word in words[1:]:
            self.expect(word)
        return True

    def expect(self, word: str) -> None:
        """Go on behind this word. Raises `SqlError`."""
        if not self.skip(word):
            self.fail(f"expected {word}")

    def name(self, what: str = "a name") -> str:
        """Read one identifier. Raises `SqlError`."""
        token = self.peek()
        if token is None or token.kind not in ("word", "quoted"):
            self.fail(f"expected {what}")
        self.position += 1
        return token.name

    def string(self) -> str:
        """Read one string. Raises `SqlError`."""
        token = self.peek()
        if token is None or token.kind != "string":
            self.fail("expected a string in single quotes")
        self.position += 1
        return token.text

    def integer(self, what: str) -> int:
        """Read one whole number from 0. Raises `SqlError`."""
        token = self.peek()
        if token is None or token.kind != "number" or not token.text.isdecimal() or len(token.text) > 19:
            self.fail(f"expected {what}")
        self.position += 1
        return int(token.text)

    def table_name(self) -> TableName:
        """Read ``[[firnline.]schema.]table``. Raises `SqlError`."""
        parts = [self.name("the name of a table")]
        while self.skip("."):
            parts.append(self.name())
        if len(parts) == 3 and parts[0] == "firnline":
            parts = parts[1:]
        if len(parts) > 2:
            self.fail("a table name is [schema.]table")
        return (DEFAULT_NAMESPACE, parts[0]) if len(parts) == 1 else (parts[0], parts[1])

    def dotted(self) -> str:
        """Read names joined by dots as one."""
        parts = [self.name()]
        while self.skip("."):
            parts.append(self.name())
        return ".".join(parts)

    def names(self) -> tuple[str, ...]:
        """Read ``(a, b, …)``. Raises `SqlError`."""
        self.expect("(")
        found = [self.name("the name of a column")]
        while self.skip(","):
            found.append(self.name("the name of a column"))
        self.expect(")")
        return tuple(found)

    def pairs(self) -> dict[str, str]:
        """Read ``('key' [=] 'value', …)``; keys may be names, values numbers or words. Raises `SqlError`."""
        found: dict[str, str] = {}
        self.expect("(")
        while not self.skip(")"):
            token = self.peek()
            key = self.string() if token is not None and token.kind == "string" else self.dotted()
            self.skip("=")
            found[key] = self._value()
            if not self.skip(","):
                self.expect(")")
                break
        return found

    def _value(self) -> str:
        token = self.peek()
        if token is None or token.kind not in ("string", "number", "word"):
            self.fail("expected a value in single quotes")
        self.position += 1
        return token.text

    def until(self, *stops: tuple[str, ...], what: str) -> Span:
        """Read up to the first of these word sequences outside of brackets and CASE, or the end; not empty.

        Each of ``stops`` is a sequence of keywords or symbols. Raises `SqlError`.
        """
        start, depth = self.position, 0
        while (token := self.peek()) is not None:
            if depth == 0 and any(self.at(*words) for words in stops) and not self._inside_name():
                break
            if token.kind == "symbol" and token.text in ("(", "[", "{"):
                depth += 1
            elif token.kind == "symbol" and token.text in (")", "]", "}"):
                if depth == 0:
                    break
                depth -= 1
            elif token.is_word("CASE"):
                depth += 1
            elif token.is_word("END") and depth:
                depth -= 1
            self.position += 1
        if self.position == start:
            self.fail(f"expected {what}")
        return self.span(start)

    def _inside_name(self) -> bool:
        """Tell whether the word here is the part of a name behind a dot."""
        before = self.tokens[self.position - 1] if self.position else None
        return before is not None and before.kind == "symbol" and before.text == "."

    def span(self, start: int) -> Span:
        """Return the text from the token at ``start`` to the cursor."""
        return Span(self.tokens[start].start, self.tokens[self.position - 1].limit)

    def rest(self, what: str) -> Span:
        """Read everything that is left. Raises `SqlError` if that is nothing."""
        if self.peek() is None:
            self.fail(f"expected {what}")
        start, self.position = self.position, self.limit
        return self.span(start)

    def end(self) -> None:
        """Raise `SqlError` unless everything was read."""
        if self.peek() is not None:
            self.fail("expected the end of the statement")
