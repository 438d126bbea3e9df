"""``a IS [NOT] DISTINCT FROM b AND c``: the engine's parser takes ``b AND c`` for the right side, and answers wrongly.

Standard SQL binds it as a comparison. The text cannot be given brackets where it stands, so it is refused with words
that say where they go.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.lexer import Token, place
from storage.errors import SqlError

__all__ = ["check_distinct_from"]

_ENDS = (
    "THEN", "WHEN", "ELSE", "END", "WHERE", "GROUP", "HAVING", "QUALIFY", "ORDER", "LIMIT", "OFFSET", "FETCH", "UNION",
    "EXCEPT", "INTERSECT", "JOIN", "LEFT", "RIGHT", "FULL", "INNER", "CROSS", "WINDOW", "AS", "FROM", "ON",
    "DISTINCT",  # a further comparison is looked at for itself
)  # fmt: skip
_OPERAND_TOKENS_MAX = 10_000


def check_distinct_from(sql: str, tokens: Sequence[Token]) -> None:
    """Raise `SqlError` where AND or OR follows the right side of IS DISTINCT FROM within the same brackets."""
    for position, token in enumerate(tokens[:-1]):
        if token.is_word("DISTINCT") and tokens[position + 1].is_word("FROM") and _after_is(tokens, position):
            found = _joined(tokens, position + 2)
            if found is not None:
                raise SqlError(
                    f"put brackets around the comparison before this {found.text.upper()}: (a IS DISTINCT FROM b)",
                    **place(sql, found.start),
                )


def _after_is(tokens: Sequence[Token], position: int) -> bool:
    before = tokens[max(0, position - 2) : position]
    return bool(before) and (before[-1].is_word("IS") or [each.text.upper() for each in before] == ["IS", "NOT"])


def _joined(tokens: Sequence[Token], start: int) -> Token | None:
    """Return the AND or OR that ends the operand which begins at ``start``, if one does."""
    depth = 0
    for position in range(start, min(len(tokens), start + _OPERAND_TOKENS_MAX)):
        token = tokens[position]
        if token.kind == "symbol":
            depth += (token.text in "([{") - (token.text in ")]}")
        if depth < 0 or (depth == 0 and (token.text == "," or token.is_word(*_ENDS))):
            return None
        if depth == 0 and token.is_word("AND", "OR"):
            return token
    return None
