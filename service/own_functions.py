"""Calls of our own functions (`functions.sql_functions`), and ``time_bucket(width, time [, origin])`` for the engine.

A function of ours has one type of each argument, and the engine casts to it; but of no zone to a zone it casts slowly
(32 ns a row). So a call becomes one of another function, over times cast by name, whose answer gets the type of what
was asked; the function itself only checks the types, in a branch that is never taken. Where the width is a literal of
fixed length the engine computes the answer from integers. (Its ``date_bin`` takes no time outside of 1677 to 2262.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from functions.gap_fill import width_from
from functions.session import OWN_FUNCTIONS
from functions.sql_functions import MONDAY
from service.lexer import Token, tokenize
from storage.errors import InvalidError, TooLargeError

__all__ = ["called", "shown_name", "with_types"]

_TEXT_MAX = 4 << 20
"""A call inside a call's time doubles it."""
_COLUMN = re.compile(
    r"cast_to_type\(CASE WHEN Boolean\(true\) THEN .* ELSE (time_bucket(?:_from)?\(.*\)) END,.*\)", re.S
)
_NULL = "CAST(NULL AS TIMESTAMP)"
_UTC = """'Timestamp(Microsecond, Some("UTC"))'"""


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


def shown_name(name: str) -> str:
    """Return the name of an output column that is a rewritten call as that of the call itself; others as they are."""
    found = _COLUMN.fullmatch(name) if name.startswith("cast_to_type(") else None
    return found.group(1).replace("time_bucket_from(", "time_bucket(", 1) if found else name


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
        call = _call(_length(tokens[slice(*bounds[0])]), width, time, origin)
        parts += [text[start : tokens[position].start], call]
        start, position = tokens[closing].limit, closing + 1
        if sum(map(len, parts)) > _TEXT_MAX:
            raise TooLargeError("calls of time_bucket are nested too deeply", limit=_TEXT_MAX)
    return "".join([*parts, text[start:limit]])


def _call(length: int, width: str, time: str, origin: Sequence[str]) -> str:
    """Return a call as the engine takes it; ``length`` is that of a literal width, else 0."""
    behind = "_from" if origin else ""
    if length:
        phase = _micros(origin[0]) if origin else str(MONDAY)
        past = f"((({_micros(time)} - {phase}) % {length}) + {length}) % {length}"
        start = f"arrow_cast({_micros(time)} - {past}, {_UTC})"
    else:
        start = f"time_bucket_micros{behind}({', '.join([width, *map(_plain, [time, *origin])])})"
    checked = f"time_bucket{behind}({', '.join([width, time, *origin])})"
    kind = _NULL if time.upper() == "NULL" else time
    return f"cast_to_type(CASE WHEN TRUE THEN {start} ELSE {checked} END, {kind})"


def _micros(time: str) -> str:
    """Return the microseconds since 1970 of a time, as SQL."""
    return f"arrow_cast({_plain(time)}, 'Int64')"


def _plain(time: str) -> str:
    """Return a time without its zone, as SQL: the same microseconds since 1970."""
    return f"arrow_cast({time}, 'Timestamp(Microsecond, None)')"


def _length(width: Sequence[Token]) -> int:
    """Return the microseconds of a literal of fixed length, else 0."""
    literal = width[1:] if width[0].is_word("INTERVAL") else width
    if len(literal) != 1 or literal[0].kind != "string":
        return 0
    try:
        return width_from(literal[0].text)[1]
    except InvalidError:
        return 0  # the engine may know more of intervals


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
