"""Calls of our own functions (`functions.sql_functions`), and ``time_bucket(width, time [, origin])`` for the engine.

A function of ours has one type of time, microseconds in UTC, and the engine casts to it. So that the answer has the
type of what was asked, a call becomes ``cast_to_type(time_bucket(width, time), time)``; with an origin it is another
function, since the engine counts arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from functions.session import OWN_FUNCTIONS
from service.lexer import Token, tokenize
from storage.errors import TooLargeError

__all__ = ["called", "with_types"]

_TEXT_MAX = 4 << 20
"""A call inside a call's time doubles it."""
_NULL = "CAST(NULL AS TIMESTAMP)"


def called(tokens: Sequence[Token]) -> frozenset[str]:
    """Return which of our functions a statement may call."""
    return frozenset(
        token.name
        for token, behind in pairwise(tokens)
        if token.kind in ("word", "quoted") and token.name in OWN_FUNCTIONS and behind.text == "("
    )


def with_types(text: str) -> str:
    """Return the text with its calls rewritten. Raises `TooLargeError` when calls are nested too deeply."""
    tokens = tokenize(text)
    return _rendered(text, tokens, 0, len(tokens), 0, len(text))


def _rendered(text: str, tokens: Sequence[Token], first: int, last: int, start: int, limit: int) -> str:
    """Return the text of [start, limit), in which the tokens [first, last) lie."""
    parts, position = [], first
    while position < last:
        found = _arguments(tokens, position, last)
        if found is None:
            position += 1
            continue
        bounds, closing = found
        width, time, *origin = (
            _rendered(text, tokens, a, b, tokens[a - 1].limit, tokens[b].start).strip() for a, b in bounds
        )
        kind = _NULL if time.upper() == "NULL" else time
        name = "time_bucket_from" if origin else "time_bucket"
        call = f"cast_to_type({name}({', '.join([width, time, *origin])}), {kind})"
        parts += [text[start : tokens[position].start], call]
        start, position = tokens[closing].limit, closing + 1
        if sum(map(len, parts)) > _TEXT_MAX:
            raise TooLargeError("calls of time_bucket are nested too deeply", limit=_TEXT_MAX)
    return "".join([*parts, text[start:limit]])


def _arguments(tokens: Sequence[Token], position: int, last: int) -> tuple[list[tuple[int, int]], int] | None:
    """Return where the two or three arguments of a call lie among the tokens, and its closing bracket; None if the
    token begins no such call."""
    token = tokens[position]
    if token.kind != "word" or token.name != "time_bucket" or position + 1 >= last or tokens[position + 1].text != "(":
        return None
    if position and (tokens[position - 1].is_word("AS") or tokens[position - 1].text == "."):
        return None
    depth, start, bounds = 0, position + 2, []
    for at in range(position + 1, last):
        if tokens[at].kind != "symbol":
            continue
        depth += (tokens[at].text in "([{") - (tokens[at].text in ")]}")
        if depth == 0 or (depth == 1 and tokens[at].text == ","):
            bounds.append((start, at))
            start = at + 1
        if depth == 0:
            names_a_query = at + 2 < len(tokens) and tokens[at + 1].is_word("AS") and tokens[at + 2].text == "("
            fits = len(bounds) in (2, 3) and all(a < b for a, b in bounds) and not names_a_query
            return (bounds, at) if fits else None
    return None
