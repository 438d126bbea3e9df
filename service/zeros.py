"""Comparisons with zero that must find both zeros, which SQL has as one (IEEE 754, 5.11).

The engine (DataFusion 55) compares ``x = 0.0`` so, but looks bits up in IN lists that are sets, in ``CASE x WHEN 0.0``
and in ``NULLIF(x, 0.0)``: -0.0 is not found there. Where a plan shows such a zero among floats, the statement is
planned with the other zero in the list, ``CASE WHEN x = 0.0``, and ``NULLIF(NULLIF(x, 0.0), CASE WHEN x = 0.0 THEN x
ELSE 0.0 END)``, which has the type that it had. Only literals, parameters and casts of them are seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from service.lexer import Token, tokenize

__all__ = ["ZERO_WORDS", "may_compare_zero", "with_both_zeros"]

ZERO_WORDS = frozenset(("in", "case", "nullif"))
"""A statement without any of these words has no such comparison."""
_FLOAT = re.compile(r"\bFloat(?:16|32|64)\(([^()]*)\)")
_ZERO = r"Float(?:16|32|64)\(-?0\)"
_LIST = re.compile(r" IN \(\[(.*?)\]\)", re.S)
_CASE, _NULLIF = re.compile(rf" WHEN {_ZERO} THEN "), re.compile(rf"\bnullif\(.*{_ZERO}")
_EXACT = 1 << 53
"""Integers below are floats, too: among floats they are found as among integers."""


def may_compare_zero(tokens: Sequence[Token], params: Mapping[str, Any]) -> bool:
    """Tell whether a statement has a comparison that `with_both_zeros` may have to change."""
    return any(
        (token.is_word("IN") and opened.text == "(" and first.kind != "string" and not first.is_word("SELECT", "WITH"))
        or (token.is_word("CASE") and not opened.is_word("WHEN"))
        or (token.is_word("NULLIF") and opened.text == "(")
        for token, opened, first in zip(tokens, tokens[1:], tokens[2:], strict=False)
    ) and any(_value([token], params, cast=True) == 0 for token in tokens)


def with_both_zeros(text: str, params: Mapping[str, Any], plan: str) -> str:
    """Return the text whose comparisons find both zeros, as far as ``plan``, its optimized plan, needs that.

    Raises what `tokenize` does.
    """
    if re.search(_ZERO, plan) is None:
        return text
    return _Zeros(text, params, plan).rendered()


class _Zeros:
    def __init__(self, text: str, params: Mapping[str, Any], plan: str) -> None:
        self._text, self._params = text, params
        self._tokens = tokenize(text)
        self._depths = _depths(self._tokens)
        self._lists = {
            _same(map(float, _FLOAT.findall(each))) for each in _LIST.findall(plan) if re.search(_ZERO, each)
        }
        self._cases, self._nullifs = bool(_CASE.search(plan)), bool(_NULLIF.search(plan))

    def rendered(self) -> str:
        return self._text[: self._start(0)] + self._render(0, len(self._tokens)) + self._text[self._tokens[-1].limit :]

    def _start(self, position: int) -> int:
        return self._tokens[position].start

    def _render(self, first: int, last: int) -> str:
        """Return the text of the tokens [first, last), at least one."""
        parts, start, position = [], self._start(first), first
        while position < last:
            found = self._changed(position, last)
            if found is None:
                position += 1
                continue
            behind, replacement = found
            parts += [self._text[start : self._start(position)], replacement]
            start, position = self._tokens[behind - 1].limit, behind
        return "".join([*parts, self._text[start : self._tokens[last - 1].limit]])

    def _changed(self, position: int, last: int) -> tuple[int, str] | None:
        """Return what replaces the expression that begins at a token, and the token behind it."""
        token = self._tokens[position]
        opens = position + 1 < last and self._tokens[position + 1].text == "("
        if token.is_word("CASE") and self._cases:
            return self._case(position, last)
        if token.is_word("NULLIF") and self._nullifs and opens:
            return self._nullif(position, last)
        return self._list(position, last) if token.is_word("IN") and self._lists and opens else None

    def _list(self, position: int, last: int) -> tuple[int, str] | None:
        items, closing = self._items(position + 2, last)
        values = [_value(self._tokens[a:b], self._params) for a, b in items]
        known = [value for value in values if value is not None]
        if 0 not in known or not self._is_planned(_same(known)):
            return None
        if max(known) >= _EXACT and all(map(_is_integer, self._tokens[position + 2 : closing])):
            return None
        listed = self._render(position + 2, closing)
        return closing + 1, f"{self._text[self._start(position) : self._start(position + 2)]}{listed}, 0.0, -0.0)"

    def _is_planned(self, values: frozenset[float]) -> bool:
        """Tell whether the plan has a list of these; of two lists that ask for one column it may have made one."""
        return any(values <= planned or planned <= values for planned in self._lists)

    def _nullif(self, position: int, last: int) -> tuple[int, str] | None:
        items, closing = self._items(position + 2, last)
        if len(items) != 2 or all(_value(self._tokens[a:b], self._params) != 0 for a, b in items):
            return None
        x, y = (self._render(a, b) for a, b in items)
        return closing + 1, f"NULLIF(NULLIF({x}, {y}), CASE WHEN ({x}) = ({y}) THEN {x} ELSE {y} END)"

    def _case(self, position: int, last: int) -> tuple[int, str] | None:
        depth = self._depths[position]
        marks = []
        for at in range(position + 1, last):
            if self._depths[at] == depth and self._tokens[at].is_word("END"):
                break
            if self._depths[at] == depth + 1 and self._tokens[at].is_word("WHEN", "THEN", "ELSE"):
                marks.append(at)
        else:
            return None
        whens = [(a, b) for a, b in pairwise(marks) if self._tokens[a].is_word("WHEN")]
        if not whens or whens[0][0] == position + 1 or not any(self._is_zero(a + 1, b) for a, b in whens):
            return None
        asked, parts, start = self._render(position + 1, whens[0][0]), ["CASE "], whens[0][0]
        for when, then in whens:
            parts += [self._render(start, when) + " "] if start < when else []
            parts.append(f"WHEN ({asked}) = ({self._render(when + 1, then)}) ")
            start = then
        return at + 1, "".join([*parts, self._render(start, at + 1)])

    def _is_zero(self, first: int, last: int) -> bool:
        return _value(self._tokens[first:last], self._params) == 0

    def _items(self, first: int, last: int) -> tuple[list[tuple[int, int]], int]:
        """Return the expressions between commas, of tokens [a, b), and the closing bracket; none in what has none."""
        depth, items, start = self._depths[first - 1] + 1, [], first
        for position in range(first, last):
            ends = self._depths[position] == depth - 1
            if ends or (self._depths[position] == depth and self._tokens[position].text == ","):
                if position == start:
                    return [], first
                items.append((start, position))
                start = position + 1
            if ends:
                return items, position
        return [], first


def _depths(tokens: Sequence[Token]) -> list[int]:
    """Return how deep each token lies in brackets and CASE … END, which themselves lie outside."""
    depths, depth = [], 0
    for token in tokens:
        is_symbol = token.kind == "symbol"
        depth -= (is_symbol and token.text in ")]}") or token.is_word("END")
        depths.append(depth)
        depth += (is_symbol and token.text in "([{") or token.is_word("CASE")
    return depths


def _value(tokens: Sequence[Token], params: Mapping[str, Any], *, cast: bool = False) -> float | None:
    """Return how far from zero the number lies that an expression is, if it is plain to see that it is one."""
    while tokens and tokens[0].text in ("-", "+"):
        tokens = tokens[1:]
    if len(tokens) > 2 and tokens[0].text == "(" and tokens[-1].text == ")":
        return _value(tokens[1:-1], params, cast=cast)
    if len(tokens) > 4 and tokens[0].is_word("CAST") and tokens[1].text == "(":
        ends = [at for at, token in enumerate(tokens) if token.is_word("AS")]
        return _value(tokens[2 : ends[0]], params, cast=True) if ends else None
    if len(tokens) > 2 and tokens[1].text == "::":
        tokens, cast = tokens[:1], True
    if len(tokens) != 1 or tokens[0].kind not in (("number", "param", "string") if cast else ("number", "param")):
        return None
    [token] = tokens
    given = params.get(token.text[1:]) if token.kind == "param" else token.text
    try:
        return None if isinstance(given, bool) else abs(float(given))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None


def _is_integer(token: Token) -> bool:
    return token.kind == "symbol" or (token.kind == "number" and token.text.isdecimal())


def _same(values: Iterable[float]) -> frozenset[float]:
    """Return what two lists have in common that differ in signs, copies and the floats' precision."""
    with np.errstate(over="ignore"):
        return frozenset(float(np.float32(abs(value))) for value in values if value == value)
