"""Selects with ROLLUP, CUBE or GROUPING SETS, whose keys the engine must not take for constants.

A key that is one value (``WHERE g = 'x'``, a literal of a subquery, the only partition left) the engine (DataFusion 55,
apache/datafusion#24421) takes for a constant behind the grouping, too, where it is NULL in the other grouping sets:
then ORDER BY leaves it out, and past one batch a group comes in parts. It derives nothing from an expression with a
volatile part, so each column that such a GROUP BY names becomes ``CASE WHEN random() >= 0 THEN g END``, which is ``g``,
wherever the select itself names it. A text that does not plan this way is planned as it was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from service.lexer import Token, tokenize

__all__ = ["GROUPING_WORDS", "guarded"]

GROUPING_WORDS = frozenset(("rollup", "cube", "grouping"))
"""A statement without any of these words has no grouping sets."""
_SETS = ("ROLLUP", "CUBE", "SETS")
_QUERY = ("SELECT", "WITH", "VALUES", "TABLE")
_UNION = ("UNION", "EXCEPT", "INTERSECT", "MINUS")
_LAST = (*_UNION, "LIMIT", "OFFSET", "FETCH", "FOR")
_BEHIND_ORDER = (",", "ASC", "DESC", "NULLS", ")", ";", "", *_LAST)
_BEHIND_KEYS = ("HAVING", "QUALIFY", "WINDOW", "ORDER", *_LAST)
_OPERATORS = (
    "AND", "OR", "NOT", "IS", "IN", "LIKE", "ILIKE", "BETWEEN", "SIMILAR", "TO", "ESCAPE", "DISTINCT", "FROM", "CASE",
    "WHEN", "THEN", "ELSE", "DIV", "XOR", "ALL", "INTERVAL",
)  # fmt: skip
_NO_COLUMNS = (*_OPERATORS, "END", "NULL", "TRUE", "FALSE", "CAST", "GROUPING", "AS", "ARRAY", "BY")
_NO_COLUMN_BEHIND = ("AS", "OVER", "NULLS", "AT")


def guarded(text: str, *, named: bool = True) -> str | None:
    """Return the text with the keys of its grouping sets guarded; None if it has none. Raises what `tokenize` does.

    Its columns have other names where they had none of their own, and all of them where they are not ``named``.
    """
    tokens = tokenize(text)
    pairs = _pairs(tokens)
    edits: dict[int, tuple[int, str]] = {}
    if len(pairs) < sum(token.kind == "symbol" and token.text in "()[]{}" for token in tokens):
        return None  # the engine says what is wrong
    for position, (token, behind) in enumerate(pairwise(tokens)):
        if token.is_word("GROUP") and behind.is_word("BY"):
            select = _select(tokens, pairs, position)
            if select is not None:
                edits |= _Guarding(text, tokens, pairs, select, named).edits()
    parts, start = [], 0
    for at, (limit, replacement) in sorted(edits.items()):
        parts += [text[start:at], replacement]
        start = limit
    return "".join([*parts, text[start:]]) if edits else None


@dataclass(frozen=True)
class _Item:
    """What a select list gives: the tokens [start, limit) of its expression, and its name if it has one."""

    start: int
    limit: int
    alias: str | None

    @property
    def tokens(self) -> tuple[int, int]:
        return self.start, self.limit


@dataclass(frozen=True)
class _Select:
    """Where a select's clauses are among the tokens; ``keys`` is what is behind GROUP BY, ``order`` behind ORDER BY."""

    items: tuple[_Item, ...]
    keys: tuple[int, int]
    having: tuple[int, int]
    order: tuple[int, int]


class _Guarding:
    """The guarding of one select."""

    def __init__(
        self, text: str, tokens: Sequence[Token], pairs: Mapping[int, int], select: _Select, named: bool
    ) -> None:  # fmt: skip
        self._text, self._tokens, self._pairs, self._select = text, tokens, pairs, select
        self._paths = {item: list(_paths(tokens, pairs, item.start, item.limit)) for item in select.items}
        self._aliases = {item.alias: item for item in select.items if item.alias is not None}
        self._columns: set[str] = set()
        self._meant: set[str] = set()
        """Keys that are names of the select list."""
        self._literals: set[_Item] = set()
        self._find_keys()
        self._named = named and not self._orders_by_calls()

    def edits(self) -> dict[int, tuple[int, str]]:
        """Return offset → the offset behind what is replaced, and by what."""
        edits: dict[int, tuple[int, str]] = {}
        for item, paths in self._paths.items():
            if item in self._literals:
                edits |= self._edit(item.start, item.limit)
                continue
            for start, limit in self._guarded(paths):
                whole = self._named and (start, limit) == item.tokens and item.alias is None
                edits |= self._edit(start, limit, self._name(limit) if whole else None)
        for start, limit in self._guarded(_paths(self._tokens, self._pairs, *self._select.keys)):
            if limit > start + 1 or self._name(limit) not in self._meant:
                edits |= self._edit(start, limit)
        for start, limit in self._guarded(_paths(self._tokens, self._pairs, *self._select.having)):
            edits |= self._edit(start, limit)
        by_name = self._by_name()
        for start, limit in self._guarded(_paths(self._tokens, self._pairs, *self._select.order)):
            if start in by_name:
                continue
            if limit == start + 1 and self._name(limit) in self._aliases:
                return {}  # which of two the engine means by this name depends on the text of the whole key
            edits |= self._edit(start, limit)
        return edits

    def _find_keys(self) -> None:
        start, limit = self._select.keys
        for first, last in _paths(self._tokens, self._pairs, start, limit):
            name = self._name(last)
            item = self._aliases.get(name) if last == first + 1 else None
            if item is None or any(self._name(each) == name for _, each in self._paths[item]):
                self._columns.add(name)
            else:
                self._meant.add(name)
                self._columns |= {self._name(each) for _, each in self._paths[item]}
                if not self._paths[item]:
                    self._literals.add(item)

    def _guarded(self, paths: Iterator[tuple[int, int]] | list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(start, limit) for start, limit in paths if self._name(limit) in self._columns]

    def _outputs(self) -> set[str]:
        """Return the names of the select list."""
        if not self._named:
            return set(self._aliases)
        whole = [item for item, paths in self._paths.items() if item.alias is None and paths[:1] == [item.tokens]]
        return {*self._aliases, *(self._name(item.limit) for item in whole)}

    def _orders_by_calls(self) -> bool:
        """Tell whether ORDER BY has keys in brackets, as in grouping(g): a name in the select list would hide them."""
        outside = set(_level(self._tokens, self._pairs, *self._select.order))
        paths = self._guarded(_paths(self._tokens, self._pairs, *self._select.order))
        return any(start not in outside for start, _ in paths)

    def _by_name(self) -> set[int]:
        """Return where ORDER BY names, as a whole key, what the select list gives."""
        start, limit = self._select.order
        names = self._outputs()
        return {
            at for at in _level(self._tokens, self._pairs, start, limit)
            if self._at(at - 1) in ("BY", ",") and self._at(at + 1) in _BEHIND_ORDER
            and self._tokens[at].name in names
        }  # fmt: skip

    def _edit(self, start: int, limit: int, alias: str | None = None) -> dict[int, tuple[int, str]]:
        offset, behind = self._tokens[start].start, self._tokens[limit - 1].limit
        guard = f"CASE WHEN random() >= 0 THEN {self._text[offset:behind]} END"
        if self._at(limit) == "[":
            guard = f"({guard})"
        if alias is not None:
            guard += ' AS "' + alias.replace('"', '""') + '"'
        return {offset: (behind, guard)}

    def _name(self, limit: int) -> str:
        """Return the last name of the path that ends there."""
        return self._tokens[limit - 1].name

    def _at(self, position: int) -> str:
        return _shown(self._tokens, position)


def _shown(tokens: Sequence[Token], position: int) -> str:
    """Return a keyword or symbol, in upper case; something that is neither for a quoted name or string."""
    if not 0 <= position < len(tokens):
        return ""
    token = tokens[position]
    return f"<{token.kind}>" if token.kind in ("quoted", "string") else token.text.upper()


def _pairs(tokens: Sequence[Token]) -> dict[int, int]:
    """Return for each bracket that is closed where the other of its pair is, both ways."""
    opened: list[int] = []
    pairs = {}
    for position, token in enumerate(tokens):
        if token.kind != "symbol":
            continue
        if token.text in "([{":
            opened.append(position)
        elif token.text in ")]}" and opened:
            first = opened.pop()
            pairs[first], pairs[position] = position, first
    return pairs


def _level(
    tokens: Sequence[Token], pairs: Mapping[int, int], start: int, limit: int | None = None
) -> Iterator[int]:  # fmt: skip
    """Yield where the tokens [start, limit) are that no bracket, opened from there on, is around."""
    position, limit = start, len(tokens) if limit is None else limit
    while position < limit:
        if tokens[position].kind == "symbol" and tokens[position].text in ")]};":
            return
        yield position
        position = max(pairs.get(position, position), position) + 1


def _select(tokens: Sequence[Token], pairs: Mapping[int, int], group: int) -> _Select | None:
    """Return the select that a GROUP BY is of, if that has grouping sets."""
    first = group - 1
    while first >= 0 and not tokens[first].is_word("SELECT"):
        if tokens[first].is_word(*_UNION, "BY") or (first in pairs and pairs[first] > first):
            return None
        first = min(pairs.get(first, first), first) - 1
    if first < 0:
        return None
    behind = []
    for at in _level(tokens, pairs, group + 2):  # no further: each of many selects of a union is looked at
        behind.append(at)
        if tokens[at].is_word("GROUP", *_LAST):
            break
    after = max(pairs.get(behind[-1], 0), behind[-1]) + 1 if behind else group + 2
    last = next((at for at in behind if tokens[at].is_word("GROUP", *_LAST)), after)
    keys = next((at for at in behind if tokens[at].is_word(*_BEHIND_KEYS)), after)
    order = next((at for at in behind if keys <= at < last and tokens[at].is_word("ORDER")), last)
    if not any(_begins_sets(tokens, at) for at in range(group + 2, keys)):
        return None
    return _Select(tuple(_items(tokens, pairs, first + 1)), (group + 2, keys), (keys, order), (order, last))


def _begins_sets(tokens: Sequence[Token], at: int) -> bool:
    if not tokens[at].is_word(*_SETS) or _shown(tokens, at + 1) != "(":
        return False
    return not tokens[at].is_word("SETS") or tokens[at - 1].is_word("GROUPING")


def _items(tokens: Sequence[Token], pairs: Mapping[int, int], start: int) -> Iterator[_Item]:
    """Yield the items of a select list."""
    if tokens[start].is_word("DISTINCT", "ALL"):
        start += 1
        if tokens[start].is_word("ON"):
            start = pairs.get(start + 1, start + 1) + 1
    for at in _level(tokens, pairs, start):
        token = tokens[at]
        ends = token.is_word("FROM", "WHERE", "GROUP") and not tokens[at - 1].is_word("DISTINCT")
        if (ends or _shown(tokens, at) == ",") and at > start:
            yield _item(tokens, start, at)
            start = at + 1
        if ends:
            return


def _item(tokens: Sequence[Token], start: int, limit: int) -> _Item:
    last = tokens[limit - 1]
    if limit - start >= 2 and last.kind in ("word", "quoted"):
        before = tokens[limit - 2]
        if before.is_word("AS"):
            return _Item(start, limit - 2, last.name)
        ends = before.text in ")]}" if before.kind == "symbol" else not before.is_word(*_OPERATORS)
        if ends and not last.is_word("END", "NULL", "TRUE", "FALSE"):
            return _Item(start, limit - 1, last.name)
    return _Item(start, limit, None)


def _paths(tokens: Sequence[Token], pairs: Mapping[int, int], start: int, limit: int) -> Iterator[tuple[int, int]]:
    """Yield where names of columns, with what qualifies them, may be, but for brackets of their own."""
    position = start
    while position < limit:
        token = tokens[position]
        if _shown(tokens, position) == "(" and _is_apart(tokens, pairs, position):
            position = pairs.get(position, limit) + 1
            continue
        if token.kind not in ("word", "quoted"):
            position += 1
            continue
        first = position
        position += 1
        while position + 1 < limit and tokens[position].text == "." and tokens[position + 1].kind in ("word", "quoted"):
            position += 2
        if _is_column(tokens, first, position):
            yield first, position


def _is_apart(tokens: Sequence[Token], pairs: Mapping[int, int], opening: int) -> bool:
    """Tell whether names in a bracket mean nothing that was grouped: queries, FILTER clauses, aggregates with an order.

    An aggregate is of rows as they were before, and the engine knows orders only by expressions that are not volatile.
    """
    if _shown(tokens, opening + 1) in _QUERY or _shown(tokens, opening - 1) == "FILTER":
        return True
    ordered = any(tokens[at].is_word("ORDER") for at in _level(tokens, pairs, opening + 1))
    return ordered and _shown(tokens, opening - 1) not in ("OVER", "AS")


def _is_column(tokens: Sequence[Token], start: int, limit: int) -> bool:
    if limit == start + 1 and tokens[start].is_word(*_NO_COLUMNS):
        return False
    before, behind = _shown(tokens, start - 1), _shown(tokens, limit)
    if tokens[start].is_word("AT") and behind == "TIME":
        return False
    if before in (".", "::", "<string>", *_NO_COLUMN_BEHIND) or behind in ("(", "<string>", "=>", ":", "."):
        return False
    return behind != "FROM" or before != "("  # as in extract(year FROM t)
