"""``VALUES`` of plain literals and parameters, read without the engine: quicker for one row, and decimals stay exact.

Anything else — an expression, a function, a subquery — is left to the engine (`literal_rows` returns None).
"""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from service.cursor import Span
from service.lexer import Token, place
from storage.errors import SqlError

__all__ = ["literal_rows"]

_PLAIN = (type(None), bool, int, float, str, bytes, decimal.Decimal, dt.datetime, dt.date)
_INT64 = (-(1 << 63), (1 << 63) - 1)


class _NotLiteralError(Exception):
    """The row has something that the engine has to evaluate."""


def literal_rows(
    sql: str, tokens: Sequence[Token], span: Span, params: Mapping[str, Any], fields: Sequence[pa.Field]
) -> list[pa.ChunkedArray] | None:
    """Return the columns of ``VALUES (…), …``, of types near those of ``fields``; None if it is more than literals.

    Raises `SqlError` for a row with another number of values.
    """
    inside = [token for token in tokens if span.start <= token.start < span.limit]
    if not inside or not inside[0].is_word("VALUES"):
        return None
    reader = _Reader(sql, inside, params)
    columns: list[list[Any]] = [[] for _ in fields]
    try:
        while True:
            opening = reader.symbol("(")
            row = reader.row(fields)
            if len(row) != len(fields):
                raise SqlError(
                    f"expected {len(fields)} values, one for each column, found {len(row)}",
                    **place(sql, opening.start),
                )
            for column, value in zip(columns, row, strict=True):
                column.append(value)
            if reader.at_end():
                break
            reader.symbol(",")
        return [_array(values) for values in columns]
    except _NotLiteralError:
        return None


class _Reader:
    def __init__(self, sql: str, tokens: list[Token], params: Mapping[str, Any]) -> None:
        self.sql, self.tokens, self.params = sql, tokens, params
        self.position = 1

    def at_end(self) -> bool:
        return self.position >= len(self.tokens)

    def _next(self) -> Token:
        if self.at_end():
            raise _NotLiteralError
        token = self.tokens[self.position]
        self.position += 1
        return token

    def symbol(self, text: str) -> Token:
        token = self._next()
        if token.kind != "symbol" or token.text != text:
            raise _NotLiteralError
        return token

    def row(self, fields: Sequence[pa.Field]) -> list[Any]:
        values: list[Any] = []
        while True:
            values.append(self._value(fields[len(values)] if len(values) < len(fields) else None))
            token = self._next()
            if token.kind == "symbol" and token.text == ")":
                return values
            if token.kind != "symbol" or token.text != ",":
                raise _NotLiteralError

    def _value(self, field: pa.Field | None) -> Any:
        token = self._next()
        if token.kind == "symbol" and token.text in "+-":
            number = self._next()
            return _number("-" * (token.text == "-") + number.text, number, field)
        if token.kind == "symbol" and token.text == ":":
            return self._param(self._next().text)
        if token.kind == "param":
            return self._param(token.text[1:])
        if token.kind == "number":
            return _number(token.text, token, field)
        if token.kind == "string":
            return self._string(token)
        if token.is_word("NULL", "DEFAULT"):
            return None
        if token.is_word("TRUE", "FALSE"):
            return token.is_word("TRUE")
        if token.is_word("DATE", "TIMESTAMP"):
            # A column of another type would need what the engine makes of the literal.
            wanted = pa.types.is_date if token.is_word("DATE") else pa.types.is_timestamp
            text = self._next()
            if field is not None and wanted(field.type) and text.kind == "string":
                return self._string(text)
        raise _NotLiteralError

    def _string(self, token: Token) -> str:
        if self.sql[token.start] not in "'$eE":
            raise _NotLiteralError
        return token.text

    def _param(self, name: str) -> Any:
        if name not in self.params or not isinstance(self.params[name], _PLAIN):
            raise _NotLiteralError
        return self.params[name]


def _number(text: str, token: Token, field: pa.Field | None) -> Any:
    if token.kind != "number" or "_" in text:
        raise _NotLiteralError
    if text.lstrip("-").isdecimal():
        value = int(text)
        if _INT64[0] <= value <= _INT64[1]:
            return value
        if len(text.lstrip("-")) > 38:
            raise _NotLiteralError
        return decimal.Decimal(text)
    if field is not None and pa.types.is_decimal(field.type):
        exact = decimal.Decimal(text)
        exponent = exact.as_tuple().exponent
        if isinstance(exponent, int) and -38 <= exponent <= 0 and len(exact.as_tuple().digits) <= 38:
            return exact
    return float(text)


def _array(values: list[Any]) -> pa.ChunkedArray:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, decimal.Decimal} and len(kinds) > 1:
        values = [decimal.Decimal(value) if isinstance(value, int) else value for value in values]
    elif kinds <= {int, float} and len(kinds) > 1:
        if any(isinstance(value, int) and abs(value) > 1 << 53 for value in values):
            raise _NotLiteralError
        values = [float(value) if isinstance(value, int) else value for value in values]
    elif len(kinds) > 1:
        raise _NotLiteralError
    try:
        return pa.chunked_array([pa.array(values)])
    except (pa.ArrowException, OverflowError) as error:
        raise _NotLiteralError from error
