"""``gap_fill((query), 'time', 'width' [, by => …, fill => …, start => …, finish => …, origin => …])`` as written."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, cast, get_args

from functions.gap_fill import Fill, Gaps, micros_of, width_from
from service.cursor import Cursor, Span
from storage.errors import InvalidError

__all__ = ["read_call"]

_OPTIONS = ("by", "fill", "start", "finish", "origin")


def read_call(cursor: Cursor, params: Mapping[str, Any]) -> tuple[Span, Gaps, set[str]]:
    """Read what stands behind ``gap_fill(``, to behind its closing bracket.

    Returns where the query is, what to do, and the names of the parameters that stand for strings.

    Raises `SqlError` or `InvalidError`.
    """
    if not cursor.at("("):
        cursor.fail("write gap_fill((SELECT …), 'time', '1 hour')")
    opening = cursor.position
    closing = _closing(cursor)
    if closing == opening + 1:
        cursor.fail("gap_fill needs a query in brackets")
    query = Span(cursor.tokens[opening].limit, cursor.tokens[closing].start)
    cursor.position = closing + 1
    cursor.expect(",")
    used: set[str] = set()
    time = _text(cursor, params, used)
    cursor.expect(",")
    width = width_from(_text(cursor, params, used))
    options: dict[str, str] = {}
    while cursor.skip(","):
        name = cursor.name("an option")
        if name not in _OPTIONS or name in options:
            cursor.position -= 1
            cursor.fail(f"the options of gap_fill are {', '.join(_OPTIONS)}, each once")
        cursor.expect("=>")
        options[name] = _text(cursor, params, used)
    cursor.expect(")")
    return query, _gaps(time, width, options), used


def _text(cursor: Cursor, params: Mapping[str, Any], used: set[str]) -> str:
    """Read one string, or a parameter that is one, or a moment."""
    token = cursor.peek()
    if token is None or (token.kind != "param" and token.text != ":"):
        return cursor.string()
    name = token.text[1:]
    cursor.position += 1
    if token.kind != "param":
        name = cursor.name("the name of a parameter")
    if name not in params:
        raise InvalidError("the statement uses a parameter that params does not give", parameter=f"${name}")
    used.add(name)
    value = params[name]
    if isinstance(value, dt.date):
        return value.isoformat()
    if not isinstance(value, str):
        raise InvalidError("this parameter of gap_fill is a string", parameter=f"${name}", got=type(value).__name__)
    return value


def _closing(cursor: Cursor) -> int:
    depth = 0
    for position in range(cursor.position, cursor.limit):
        token = cursor.tokens[position]
        if token.kind == "symbol":
            depth += (token.text == "(") - (token.text == ")")
            if depth == 0:
                return position
    raise cursor.error("this bracket is not closed")


def _gaps(time: str, width: tuple[int, int], options: dict[str, str]) -> Gaps:
    fill = options.get("fill", "null").lower()
    if fill not in get_args(Fill):
        raise InvalidError(f"fill is one of {', '.join(get_args(Fill))}", fill=repr(fill))
    by = tuple(name.strip() for name in options.get("by", "").split(",") if name.strip())
    start, finish, origin = (micros_of(options[name]) if name in options else None for name in _OPTIONS[2:])
    if start is not None and finish is not None and start > finish:
        raise InvalidError("start is not before finish", start=options["start"], finish=options["finish"])
    if time in by:
        raise InvalidError("the column of times cannot tell series apart", column=time)
    return Gaps(time, width, by, cast("Fill", fill), start, finish, origin)
