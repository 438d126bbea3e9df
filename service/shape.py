"""How deep a statement's plan may get, told from its tokens before anything recurses over it.

The engine's parser counts its own recursion, but its planner walks chains (``a + b + c …``, ``… JOIN … JOIN …``, one
CTE over another) with one stack frame or more a link, on threads of 2 MiB, and a stack that overflows ends the whole
process. Measured: 2,000 links of ``+``, ``AND`` or ``OR``, 300 joins, 300 ``EXCEPT``, 200 CTEs with 9 operators each
plan; 3,000, 500, 500 and 400 do not. A height of `HEIGHT_MAX` stays below all of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.lexer import Token, place
from storage.errors import SqlError, TooLargeError

__all__ = ["HEIGHT_MAX", "NESTING_MAX", "SET_OPERATIONS_MAX", "check_shape"]

NESTING_MAX = 200
"""Open brackets."""
HEIGHT_MAX = 1_000
"""Links of the longest chain, those of nested brackets and of all CTEs added; a join counts as `RELATION_LINKS`."""
RELATION_LINKS = 5
SET_OPERATIONS_MAX = 1_000
"""A thousand UNIONs plan in 0.7 s, three thousand in 8 s."""

_BETWEEN_EXPRESSIONS = frozenset(
    ("SELECT", "FROM", "WHERE", "GROUP", "HAVING", "QUALIFY", "ORDER", "LIMIT", "ON", "WHEN", "THEN", "ELSE", "END")
)
_CLAUSES = _BETWEEN_EXPRESSIONS - {"ON", "WHEN", "THEN", "ELSE", "END"}
_LOGICAL = frozenset(("AND", "OR"))
_OPERATORS = frozenset(
    (
        "NOT",
        "IS",
        "IN",
        "LIKE",
        "ILIKE",
        "BETWEEN",
        "SIMILAR",
        "DIV",
        "XOR",
        "COLLATE",
        "AT",
        "INTERVAL",
        "EXPLAIN",
        "CASE",
    )
)
_RELATIONS = frozenset(("JOIN", "EXCEPT", "INTERSECT", "MINUS"))
_NO_OPERATOR = frozenset(("(", ")", "]", "}", "{", ",", ";", "."))


@dataclass(slots=True)
class _Level:
    """What stands between one pair of brackets, or outside of all.

    highest : of the expressions that are complete
    logical : AND and OR of this expression
    term : the highest operand of AND and OR so far
    links, inner : operators of this operand, and the highest bracket in it
    relations : joins and set operations; ctes : the heights of CTE bodies, added
    joining : in a FROM clause, where a comma joins
    """

    is_cte: bool = False
    joining: bool = False
    highest: int = 0
    logical: int = 0
    term: int = 0
    links: int = 0
    inner: int = 0
    relations: int = 0
    ctes: int = 0

    def end_term(self) -> None:
        self.term = max(self.term, self.links + self.inner)
        self.links = self.inner = 0

    def end_expression(self) -> None:
        self.end_term()
        self.highest = max(self.highest, self.logical + self.term)
        self.logical = self.term = 0

    def height(self) -> int:
        current = self.logical + max(self.term, self.links + self.inner)
        return max(self.highest, current) + RELATION_LINKS * self.relations + self.ctes


def check_shape(sql: str, tokens: Sequence[Token]) -> None:
    """Let a statement pass that the engine can plan without exhausting its stack.

    Raises
    ------
    SqlError
        more than one statement
    TooLargeError
        nested too deeply, too long a chain, or too many set operations; with the place
    """
    levels = [_Level()]
    set_operations = 0
    for position, token in enumerate(tokens):
        if token.kind == "symbol":
            _count_symbol(sql, tokens, position, levels)
        elif token.kind == "word":
            word = token.text.upper()
            set_operations += word == "UNION"
            _count_word(word, levels[-1], after_distinct=position > 0 and tokens[position - 1].is_word("DISTINCT"))
        else:
            continue
        if len(levels) > NESTING_MAX:
            raise TooLargeError("the statement is nested too deeply", limit=NESTING_MAX, **place(sql, token.start))
        if levels[-1].height() > HEIGHT_MAX:
            raise _too_high(sql, token)
    if set_operations > SET_OPERATIONS_MAX:
        raise TooLargeError(
            "the statement unites too many queries; put the rows into a table",
            set_operations=set_operations, limit=SET_OPERATIONS_MAX,
        )  # fmt: skip


def _too_high(sql: str, token: Token) -> TooLargeError:
    return TooLargeError(
        "the statement chains too many operators, joins or subqueries; pass values as a list or a table",
        limit=HEIGHT_MAX, **place(sql, token.start),
    )  # fmt: skip


def _count_symbol(sql: str, tokens: Sequence[Token], position: int, levels: list[_Level]) -> None:
    text, level = tokens[position].text, levels[-1]
    if text == ";":
        raise SqlError("more than one statement; send them one by one", **place(sql, tokens[position + 1].start))
    if text in "([{":
        level.links += text == "["
        levels.append(_Level(is_cte=text == "(" and _after_as(tokens, position)))
    elif text in ")]}":
        if len(levels) > 1:
            _close(levels)
    elif text == ",":
        level.end_expression()
        level.relations += level.joining
    elif text not in _NO_OPERATOR:
        level.links += 1


def _after_as(tokens: Sequence[Token], position: int) -> bool:
    before = tokens[position - 1] if position else None
    return before is not None and before.is_word("AS", "MATERIALIZED")


def _close(levels: list[_Level]) -> None:
    closed = levels.pop()
    height = closed.height() + 1
    if closed.is_cte:
        levels[-1].ctes += height + RELATION_LINKS
    else:
        levels[-1].inner = max(levels[-1].inner, height)


def _count_word(word: str, level: _Level, *, after_distinct: bool) -> None:
    if word in _LOGICAL:
        level.end_term()
        level.logical += 1
    elif word in _OPERATORS:
        level.links += 1
    elif word in _RELATIONS:
        level.end_expression()
        level.relations += 1
    elif word in _BETWEEN_EXPRESSIONS and not after_distinct:  # IS DISTINCT FROM begins no clause
        level.end_expression()
        if word in _CLAUSES:
            level.joining = word == "FROM"
