"""Decimal literals that are compared with decimals, kept exact.

The engine reads ``19.99`` as a double and compares it with a decimal column as ``Decimal(30, 15)``: of the amounts of a
``DECIMAL(10, 2)`` column, one in eleven then equals no literal, because the double's noise (``1086.600000000000023``)
reaches the fifteenth digit. SQL has such literals as exact numbers. Where the plan shows such noise, the literals that
it comes from become decimal parameters, and the statement is planned with those. Compared with a double they must stay
doubles, since the engine would cast the column to a decimal.

Only whole operands of a comparison, of BETWEEN or in an IN list are taken, outside of output columns, whose names and
types stay the engine's.
"""

from __future__ import annotations

import itertools
import math
import re
import string
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from service.lexer import Token

__all__ = ["ExactLiteral", "bind", "exact_literals", "with_noise"]

_DIGITS_MAX = 38
_VALUES_MAX = 10_000
_CONDITIONS = ("WHERE", "ON", "HAVING", "QUALIFY")
_OTHERS = ("SELECT", "FROM", "GROUP", "ORDER", "WINDOW", "LIMIT", "VALUES", "UNION", "EXCEPT", "INTERSECT", "JOIN")
_PLANNED = re.compile(r"Decimal(?:128|256)\((-?\d+\.\d{15,}),\d+,\d+\)")
_COMPARISONS = ("=", "<>", "!=", "<", "<=", ">", ">=")
_BEFORE = (*_CONDITIONS, "AND", "OR", "NOT", "BETWEEN", "WHEN")
_BEHIND = (
    "AND", "OR", "THEN", "END", "GROUP", "ORDER", "HAVING", "QUALIFY", "WINDOW", "LIMIT", "OFFSET", "FETCH", "UNION",
    "EXCEPT", "INTERSECT", "WHERE", "JOIN", "LEFT", "RIGHT", "INNER", "FULL", "CROSS", "BETWEEN",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ExactLiteral:
    """A literal at ``start``:``limit`` of the text, its sign included, and the parameter that stands for it."""

    start: int
    limit: int
    name: str
    value: Decimal


def exact_literals(tokens: Sequence[Token], taken: Collection[str]) -> list[ExactLiteral]:
    """Return the literals that may be bound, in order; no name is in ``taken`` or longer than its literal."""
    found: list[ExactLiteral] = []
    names = _names(taken)
    known: dict[str, str] = {}
    for position, in_list in _in_conditions(tokens):
        token = tokens[position]
        signed = _is_sign(tokens, position - 1)
        first = position - signed
        if not _is_decimal(token) or not _is_operand(tokens, first, position + 1, in_list):
            continue
        text = ("-" if signed else "") + token.text
        name = known.get(text) or next(names)
        start = tokens[first].start
        if len(name) + 1 <= token.limit - start and len(known) < _VALUES_MAX:
            known[text] = name
            found.append(ExactLiteral(start, token.limit, name, Decimal(text)))
    return found


def with_noise(literals: Sequence[ExactLiteral], plan: str) -> list[ExactLiteral]:
    """Return those that ``plan``, an optimized plan as text, compares as decimals that they are not."""
    noise = {float(text): Decimal(text) for text in _PLANNED.findall(plan)}
    return [each for each in literals if _differs(each.value, noise)]


def _differs(value: Decimal, noise: Mapping[float, Decimal]) -> bool:
    """Tell whether a planned decimal is this one and a double's error."""
    near = float(value)
    found = [
        noise[each] for each in (near, math.nextafter(near, math.inf), math.nextafter(near, -math.inf)) if each in noise
    ]
    return any(each != value for each in found)


def bind(text: str, literals: Sequence[ExactLiteral]) -> tuple[str, dict[str, Decimal]]:
    """Return the text with parameters in place of the literals, of the same length, and their values."""
    parts, position = [], 0
    for each in literals:
        removed = text[each.start : each.limit]
        filling = re.sub(r"[^\n]", " ", removed[len(each.name) + 1 :])
        parts += [text[position : each.start], f"${each.name}", filling]
        position = each.limit
    return "".join([*parts, text[position:]]), {each.name: each.value for each in literals}


def _names(taken: Collection[str]) -> Iterator[str]:
    letters = string.ascii_letters
    for n in itertools.count(1):
        for each in itertools.product(letters, repeat=n):
            if (name := "".join(each)) not in taken:
                yield name


def _in_conditions(tokens: Sequence[Token]) -> Iterator[tuple[int, bool]]:
    """Yield the positions of numbers inside WHERE, ON, HAVING and QUALIFY, brackets and subqueries considered; and
    whether the innermost bracket is that of an IN list. The WHERE of a FILTER counts as what it stands in.
    """
    inside, lists = [False], [False]
    before = tokens[0]
    for position, token in enumerate(tokens):
        if token.kind == "number":
            if inside[-1]:
                yield position, lists[-1]
        elif token.kind == "symbol" and token.text == "(":
            inside.append(inside[-1])
            lists.append(before.is_word("IN"))
        elif token.kind == "symbol" and token.text == ")" and len(inside) > 1:
            inside.pop()
            lists.pop()
        elif token.is_word(*_CONDITIONS) and before.text != "(" and not before.is_word("DISTINCT"):
            inside[-1] = True
        elif token.is_word(*_OTHERS) and not before.is_word("DISTINCT"):
            inside[-1] = False
        before = token


def _is_decimal(token: Token) -> bool:
    text = token.text
    return "." in text and text.replace(".", "").isdecimal() and len(text) - 1 <= _DIGITS_MAX


def _is_sign(tokens: Sequence[Token], position: int) -> bool:
    """Tell whether a minus at ``position`` is the sign of the number behind it."""
    return position > 0 and tokens[position].text == "-" and _opens(tokens, position - 1)


def _is_operand(tokens: Sequence[Token], first: int, behind: int, in_list: bool) -> bool:
    """Tell whether ``first`` to ``behind`` is a whole operand of a comparison, of BETWEEN or in an IN list."""
    if first < 1 or not _opens(tokens, first - 1) or not _closes(tokens, behind):
        return False
    if (
        tokens[first - 1].is_word("FROM")
        or _is_comparison(tokens[first - 1])
        or (behind < len(tokens) and _is_comparison(tokens[behind]))
    ):
        return True
    if tokens[first - 1].is_word("BETWEEN") or (behind < len(tokens) and tokens[behind].is_word("BETWEEN")):
        return True
    return _ends_between(tokens, first - 1) or (in_list and tokens[first - 1].text in ("(", ","))


def _opens(tokens: Sequence[Token], position: int) -> bool:
    token = tokens[position]
    if token.is_word("FROM"):
        return position > 0 and tokens[position - 1].is_word("DISTINCT")
    return token.is_word(*_BEFORE) or _is_comparison(token) or (token.kind == "symbol" and token.text in "(,")


def _closes(tokens: Sequence[Token], position: int) -> bool:
    if position == len(tokens):
        return True
    token = tokens[position]
    return token.is_word(*_BEHIND) or _is_comparison(token) or (token.kind == "symbol" and token.text in "),")


def _is_comparison(token: Token) -> bool:
    return token.kind == "symbol" and token.text in _COMPARISONS


def _ends_between(tokens: Sequence[Token], position: int) -> bool:
    """Tell whether the AND at ``position`` belongs to ``BETWEEN literal AND``."""
    if not tokens[position].is_word("AND"):
        return False
    back = position - 1
    if tokens[back].kind not in ("number", "word", "quoted", "param"):
        return False
    back -= 1
    if back > 0 and tokens[back].text == "-":
        back -= 1
    return tokens[back].is_word("BETWEEN")
