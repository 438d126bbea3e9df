"""Names for columns of a query that are written alike: the engine wants the names of a SELECT to differ."""

from __future__ import annotations

from collections.abc import Sequence

from service.cursor import Span
from service.lexer import Token

__all__ = ["with_aliases"]

_ENDS = (
    "FROM", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "UNION", "EXCEPT", "INTERSECT", "QUALIFY", "WINDOW", "OFFSET",
    "FETCH", "INTO",
)  # fmt: skip


def with_aliases(tokens: Sequence[Token], span: Span) -> list[str | Span]:
    """Return the query in pieces, with ``AS`` behind every output column that is written like an earlier one."""
    inside = [token for token in tokens if span.start <= token.start < span.limit]
    pieces: list[str | Span] = []
    start, depth = span.start, 0
    items: list[list[Token]] | None = None
    doubled: list[int] = []
    for token in [*inside, None]:
        ends = token is None or (items is not None and depth == 0 and token.is_word(*_ENDS))
        if ends and items is not None:
            doubled += _doubled(items)
            items = None
        if token is None:
            break
        if token.kind == "symbol":
            depth += (token.text in "([{") - (token.text in ")]}")
        if depth == 0 and token.is_word("SELECT"):
            items = [[]]
        elif items is not None and depth == 0 and token.kind == "symbol" and token.text == ",":
            items.append([])
        elif items is not None and not (not items[-1] and len(items) == 1 and token.is_word("DISTINCT", "ALL")):
            items[-1].append(token)
    for number, limit in enumerate(doubled):
        pieces += [Span(start, limit), f" AS firn_column_{number}"]
        start = limit
    return [*pieces, Span(start, span.limit)] if start < span.limit else pieces


def _doubled(items: list[list[Token]]) -> list[int]:
    """Return where the items end that are written like an earlier one."""
    seen, found = set(), []
    for item in items:
        shape = tuple((each.kind, each.text) for each in item)
        if shape in seen and item and not any(each.is_word("AS") or each.text == "*" for each in item):
            found.append(item[-1].limit)
        seen.add(shape)
    return found
