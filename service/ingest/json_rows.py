"""JSON bodies: an array of objects, or one object; and NDJSON, an object a line. By the standard library's parser.

Large bodies are taken in blocks of rows, so that a body's Python objects are never all there at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, NoReturn

import pyarrow as pa

from functions.by_identity import by_identity
from service.ingest.columns import Decoded, LineOf, Source, build_table, no_lines
from service.ingest.errors import short, unknown_name
from service.ingest.values import value_builder
from storage.errors import InvalidError

__all__ = ["decode_json", "decode_ndjson", "parse_cell"]

_BOM = b"\xef\xbb\xbf"
_WHOLE_CHARS = 1 << 20
_BLOCK_ROWS = 8192
_SPACE = re.compile(r"[ \t\n\r]*")


class _DuplicateError(ValueError):
    """A member of an object is there twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _value in pairs]
        raise _DuplicateError(next(name for name in names if names.count(name) > 1))
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f'{name} is no JSON value; write "{name}" in quotes for a column of floats')


_FLOATS = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)
_EXACT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant, parse_float=Decimal)


@by_identity
def _parser(schema: pa.Schema) -> json.JSONDecoder:
    """Numbers with a fraction are read digit by digit only where a decimal may want the digits."""
    return _EXACT if any("decimal" in str(field.type) for field in schema) else _FLOATS


def decode_json(body: bytes, schema: pa.Schema) -> Decoded:
    """Return the rows of a JSON array of objects, or of one object. Raises `InvalidError`."""
    text = _text(body)
    parser = _parser(schema)
    if len(text) <= _WHOLE_CHARS:
        found = _parsed(parser, text)
        rows = [found] if isinstance(found, dict) else found
        if not isinstance(rows, list):
            raise InvalidError("the body must be an array of objects, or one object", got=short(found))
        return Decoded(_table(rows, schema, no_lines, 0))
    tables = [schema.empty_table()]
    first_row = 0
    for block in _blocks(parser, text):
        tables.append(_table(block, schema, no_lines, first_row))
        first_row += len(block)
    return Decoded(pa.concat_tables(tables))


def decode_ndjson(body: bytes, schema: pa.Schema) -> Decoded:
    """Return the rows of one JSON object a line; empty lines are none. Raises `InvalidError`."""
    parser = _parser(schema)
    lines: list[int] = []
    tables = [schema.empty_table()]
    rows: list[Any] = []
    first_row = 0

    def close_block() -> None:
        nonlocal first_row
        tables.append(_table(rows, schema, lambda row: lines[first_row + row], first_row))
        first_row += len(rows)
        rows.clear()

    for number, line in enumerate(_text(body).split("\n"), 1):
        if line and not line.isspace():
            rows.append(_parsed(parser, line, number))
            lines.append(number)
            if len(rows) == _BLOCK_ROWS:
                close_block()
    if rows:
        close_block()
    table = tables[1] if len(tables) == 2 else pa.concat_tables(tables)
    return Decoded(table, lines.__getitem__)


def parse_cell(text: str, parser: json.JSONDecoder = _EXACT) -> Any:
    """Return the JSON value of a CSV cell. Raises `ValueError`."""
    try:
        return parser.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _text(body: bytes) -> str:
    try:
        return (body[3:] if body.startswith(_BOM) else body).decode()
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise InvalidError("the body is not UTF-8", line=line, byte=error.start) from None


def _parsed(parser: json.JSONDecoder, text: str, line: int | None = None) -> Any:
    try:
        return parser.decode(text)
    except (ValueError, RecursionError) as error:
        raise _syntax(error, line) from None


def _syntax(error: Exception, line: int | None) -> InvalidError:
    if isinstance(error, RecursionError):
        return InvalidError("the JSON is nested too deeply", line=line)
    if isinstance(error, _DuplicateError):
        return InvalidError("a member of an object is there twice", line=line, column=str(error)[:80])
    if isinstance(error, json.JSONDecodeError):
        where = line if line is not None else error.lineno
        return InvalidError(f"the body is not JSON: {error.msg.lower()}", line=where, character=error.colno)
    return InvalidError(f"the body is not JSON: {str(error)[:200]}", line=line)


def _blocks(parser: json.JSONDecoder, text: str) -> Iterator[list[Any]]:
    """Yield a large body's rows, some at a time."""
    place = _skip(text, 0)
    if text[place] == "{":
        yield [_parsed(parser, text)]
        return
    if text[place] != "[":
        raise InvalidError("the body must be an array of objects, or one object", got=short(text[:40]))
    rows: list[Any] = []
    place = _skip(text, place + 1)
    done = text[place] == "]"
    while not done:
        try:
            row, place = parser.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise _syntax(error, None) from None
        rows.append(row)
        if len(rows) == _BLOCK_ROWS:
            yield rows
            rows = []
        place = _skip(text, place)
        done = text[place] == "]"
        if not done:
            if text[place] != ",":
                raise InvalidError("the body is not JSON: expecting ',' delimiter", line=text.count("\n", 0, place) + 1)
            place = _skip(text, place + 1)
    if _SPACE.match(text, place + 1).end() != len(text):  # type: ignore[union-attr]
        raise InvalidError("the body is not JSON: extra data after the array")
    if rows:
        yield rows


def _skip(text: str, place: int) -> int:
    """Return where the next character is that is no white space."""
    found = _SPACE.match(text, place)
    place = found.end() if found else place
    if place >= len(text):
        raise InvalidError("the body is not JSON: it ends too early")
    return place


def _table(rows: list[Any], schema: pa.Schema, line_of: LineOf, first_row: int) -> pa.Table:
    names, known, builders = _plan(schema)
    for index, row in enumerate(rows):
        if type(row) is not dict:
            raise InvalidError(
                "each row must be an object", row=first_row + index + 1, line=line_of(index), value=short(row)
            )
        if not row.keys() <= known:
            name = next(name for name in row if name not in known)
            raise InvalidError(
                unknown_name(name, names), row=first_row + index + 1, line=line_of(index), column=name[:80]
            )
    sources = {
        name: Source([row.get(name) for row in rows], build) for name, build in zip(names, builders, strict=True)
    }
    return build_table(schema, sources, len(rows), line_of, first_row)


@by_identity
def _plan(schema: pa.Schema) -> tuple[list[str], frozenset[str], list[Callable[[Any], pa.Array]]]:
    """Return the columns' names, in order and as a set, and their builders."""
    return schema.names, frozenset(schema.names), [value_builder(field.type) for field in schema]
