"""What a statement asks for, and its text as DataFusion takes it.

Rewritten, always in place and so that the line and column of everything behind stay true:

* ``delta('…')``, ``iceberg('…')``, ``parquet('…')`` after FROM, JOIN or a comma become a generated name;
* ``table_changes('t', from, to)`` likewise, see `service.changes`;
* ``gap_fill((query), 't', '1 hour')`` likewise, whose query is parsed by itself, see `service.gap_fill`;
* ``t FOR VERSION AS OF n`` and ``t FOR TIMESTAMP AS OF '…'`` likewise, and keep ``t`` as their alias;
* ``:name`` becomes ``$name``, but not the colon of a slice, a map or a struct.

Statements that change the catalog are recognised here and parsed in `service.commands`, those that write tables in
`service.write`.
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from service.cursor import Cursor, Span
from service.distinct import check_distinct_from
from service.lexer import Token, place, tokenize
from service.parameters import bind, given, named
from service.shape import check_shape
from storage.errors import InvalidError, SqlError, TooLargeError, UnsupportedError
from storage.tables.snapshot import At

if TYPE_CHECKING:
    from functions.gap_fill import Gaps

__all__ = ["Parsed", "TableRef", "parse", "timestamp_ms"]

SQL_BYTES_MAX = 4 << 20
_GAPS_MAX = 16
FORMATS = ("delta", "iceberg", "parquet")
_QUERY = ("SELECT", "WITH", "VALUES", "EXPLAIN", "SHOW", "DESCRIBE", "DESC", "TABLE", "FROM")
_COMMANDS = ("CREATE", "DROP")
_WRITES = (
    "INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "ALTER", "TRUNCATE", "OPTIMIZE", "VACUUM", "RESTORE",
)  # fmt: skip
_WRITTEN = (
    ("CREATE", "TABLE"), ("DROP", "TABLE"), ("CREATE", "INDEX"), ("DROP", "INDEX"), ("CREATE", "UNIQUE", "INDEX"),
    ("DROP", "EXTERNAL", "TABLE"), ("CREATE", "OR", "REPLACE", "TABLE"),
)  # fmt: skip
_TRANSACTIONS = ("BEGIN", "START", "COMMIT", "ROLLBACK", "SAVEPOINT", "END", "ABORT")
_LATER = (
    *_TRANSACTIONS, "SET", "RESET", "PREPARE", "EXECUTE", "DEALLOCATE", "GRANT", "REVOKE", "USE", "ANALYZE", "REPLACE",
    "UPSERT", "CALL", "LOCK",
)  # fmt: skip
_BEFORE_TABLE = ("FROM", "JOIN", "LATERAL", "DESCRIBE", "DESC")
_AFTER_TABLE = (
    "WHERE", "ON", "JOIN", "LEFT", "RIGHT", "FULL", "INNER", "CROSS", "NATURAL", "GROUP", "ORDER", "HAVING", "LIMIT",
    "OFFSET", "FETCH", "UNION", "EXCEPT", "INTERSECT", "USING", "WINDOW", "QUALIFY", "LATERAL", "TABLESAMPLE", "SEMI",
    "ANTI", "FOR", "SET", "UNPIVOT", "PIVOT", "ASOF", "MINUS", "SORT", "CLUSTER", "DISTRIBUTE", "CONNECT", "START",
    "OUTER",
)  # fmt: skip


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


def parse(sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None, *, is_part: bool = False) -> Parsed:
    """Return the parsed statement; one that ``is_part`` of another need not use all ``params``.

    Raises
    ------
    SqlError
        nothing, or more than one statement; an unclosed quote; a malformed table function or time travel
    UnsupportedError
        a statement that Firnline does not run, by name
    InvalidError
        parameters that do not fit the statement
    TooLargeError
        a statement that is too long or too deeply nested
    """
    n_bytes = len(sql.encode(errors="surrogatepass")) if len(sql) <= SQL_BYTES_MAX else len(sql)
    if n_bytes > SQL_BYTES_MAX:
        raise TooLargeError(
            "the statement is too long; load data from files instead", bytes=n_bytes, limit=SQL_BYTES_MAX
        )
    tokens = tokenize(sql)
    while tokens and tokens[-1].text == ";" and tokens[-1].kind == "symbol":
        tokens.pop()
    if not tokens:
        raise SqlError("the statement is empty", line=1, column=1)
    check_shape(sql, tokens)
    check_distinct_from(sql, tokens)
    sql = sql[: tokens[-1].limit]
    first = tokens[0].text.upper()
    writes = _writes(tokens)
    if tokens[0].kind == "word" and first in _COMMANDS and not writes:
        return Parsed("command", sql, sql, tokens, {}, {}, 0, frozenset())
    if not writes:
        _check_supported(sql, tokens)
    rewriter = _Rewriter(sql, tokens, params, _columns_limit(tokens) if writes else 0)
    text, refs = rewriter.run()
    used = {token.text[1:] for token in tokens if token.kind == "param"} | rewriter.used_names
    bound = bind({name: value for name, value in given(params).items() if name in used} if is_part else params, used)
    if not writes:
        tokens = [
            token for token in tokens if not any(part.start <= token.start < part.limit for part in rewriter.parts)
        ]
    words = frozenset(token.name for token in tokens if token.kind in ("word", "quoted"))
    if writes:
        return Parsed("write", sql, sql, tokens, {}, bound, 0, words)
    return Parsed("query", sql, text, tokens, refs, bound, _explained(tokens), words)


def _writes(tokens: list[Token]) -> bool:
    """Tell whether the statement, or the one that it explains, writes a table."""
    position = 0
    if tokens[0].is_word("EXPLAIN"):
        position = 1
        while position < len(tokens) and tokens[position].is_word("ANALYZE", "VERBOSE"):
            position += 1
    following = tokens[position : position + 4]
    if not following or not following[0].is_word(*_WRITES, *_COMMANDS):
        return False
    if following[0].is_word(*_WRITES):
        return True
    kinds = [token.text.upper() for token in following if token.kind == "word"]
    return any(tuple(kinds[:n]) in _WRITTEN for n in (2, 3, 4))


def _columns_limit(tokens: list[Token]) -> int:
    """Return how many tokens may hold the types of columns, in which a colon begins no parameter."""
    if not any(token.is_word("CREATE", "ALTER") for token in tokens[:3]):
        return 0
    depth = 0
    for position, token in enumerate(tokens):
        if token.kind == "symbol":
            depth += (token.text == "(") - (token.text == ")")
        elif depth == 0 and token.is_word("AS"):
            return position
    return len(tokens)


def _check_supported(sql: str, tokens: list[Token]) -> None:
    first = tokens[0]
    word = first.text.upper()
    if first.text == "(" or (first.kind == "word" and word in _QUERY):
        return
    if first.kind == "word" and word in _TRANSACTIONS:
        raise UnsupportedError(
            f"{word} is not supported: each statement is a transaction of its own, over one table", statement=word
        )
    if first.kind == "word" and word in _LATER:
        raise UnsupportedError(f"{word} is not supported; see docs/sql.md for what is", statement=word)
    suggestion = _closest(word, (*_QUERY, *_COMMANDS, *_WRITES, *_LATER))
    hint = f"; did you mean {suggestion}?" if suggestion else "; a statement begins with SELECT, WITH, SHOW, CREATE, …"
    raise SqlError(f"expected a statement, found {first.text!r}{hint}", **place(sql, first.start))


def _closest(word: str, known: Sequence[str]) -> str | None:
    import difflib

    return next(iter(difflib.get_close_matches(word, known, 1, 0.6)), None)


def _explained(tokens: list[Token]) -> int:
    if not tokens[0].is_word("EXPLAIN"):
        return 0
    position = 1
    while position < len(tokens) and tokens[position].is_word("ANALYZE", "VERBOSE"):
        position += 1
    if position + 1 < len(tokens) and tokens[position].is_word("FORMAT"):
        position += 2
    return tokens[position].start if position < len(tokens) else 0


class _Rewriter:
    """Walks the tokens once, from ``start`` on, and collects replacements."""

    def __init__(
        self, sql: str, tokens: list[Token], params: Sequence[Any] | Mapping[str, Any] | None, start: int = 0
    ) -> None:
        self.sql, self.tokens, self.params, self.start = sql, tokens, params, start
        self.named = named(params)
        self.parts: list[Span] = []
        self.refs: dict[str, TableRef] = {}
        taken = {token.name for token in tokens if token.kind in ("word", "quoted")}
        self._unused = (name for name in map("_t{}".format, itertools.count()) if name not in taken)
        self._inside = _brackets(tokens)
        self.edits: list[tuple[int, int, str]] = []
        self.used_names: set[str] = set()

    def run(self) -> tuple[str, dict[str, TableRef]]:
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
        query = parse(re.sub(r"[^\n]", " ", self.sql[: part.start]) + text, self.params, is_part=True)
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
