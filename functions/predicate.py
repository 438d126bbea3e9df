"""What a plan's filters say about single columns: a small language that pruning understands.

`from_expr` turns a DataFusion filter into it. Whatever it does not understand becomes `Unknown`, which never prunes,
so a predicate here is always implied by the filter that it was made from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from datafusion import Expr, LogicalPlan

__all__ = [
    "And", "Compare", "In", "IsNull", "Or", "Predicate", "StartsWith", "TableFilter", "Unknown", "between_numbers",
    "from_expr", "scans",
]  # fmt: skip

Operator = Literal["=", "!=", "<", "<=", ">", ">="]
_FLIPPED: dict[str, Operator] = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True, slots=True)
class Unknown:
    """True for all that pruning can tell."""


@dataclass(frozen=True, slots=True)
class Compare:
    """``column op value``; null compares as false."""

    column: str
    op: Operator
    value: Any


@dataclass(frozen=True, slots=True)
class In:
    """``column IN (values)``."""

    column: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class StartsWith:
    """``column LIKE 'prefix%'``."""

    column: str
    prefix: str


@dataclass(frozen=True, slots=True)
class IsNull:
    """``column IS NULL``, or ``IS NOT NULL`` when negated."""

    column: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class And:
    """All of the terms."""

    terms: tuple[Predicate, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Any of the terms."""

    terms: tuple[Predicate, ...]


Predicate = Unknown | Compare | In | StartsWith | IsNull | And | Or


@dataclass(frozen=True, slots=True)
class TableFilter:
    """One scan of a table in a plan: its name as the plan has it, what is asked of its rows, and which columns it gives
    to what is above it; its own filters may name others."""

    schema: str | None
    table: str
    predicate: Predicate
    columns: tuple[str, ...] = ()


def between_numbers(predicate: Predicate) -> frozenset[str]:
    """Return the columns that have a lower and an upper bound in every row that satisfies the predicate.

    No NaN has both: the engine orders it above all numbers, and one whose sign bit is set below them.
    """
    terms = predicate.terms if isinstance(predicate, And) else (predicate,)
    below, above = set[str](), set[str]()
    for term in terms:
        match term:
            case Compare(column, op, value) if op != "!=" and value == value:
                if op in ("=", ">", ">="):
                    below.add(column)
                if op in ("=", "<", "<="):
                    above.add(column)
            case In(column, values) if all(value == value for value in values):
                below.add(column)
                above.add(column)
            case And():
                inner = between_numbers(term)
                below |= inner
                above |= inner
    return frozenset(below & above)


def scans(plan: LogicalPlan) -> list[TableFilter]:
    """Return every table scan of an optimized plan with the filters that stand directly above it."""
    found: list[TableFilter] = []
    _walk(plan, [], found)
    return found


def _walk(plan: LogicalPlan, above: list[Predicate], found: list[TableFilter]) -> None:
    try:
        node = plan.to_variant()
    except Exception:  # noqa: BLE001 - a node without a Python form only means that nothing is pruned below it
        node = None
    kind = type(node).__name__
    if kind == "TableScan":
        _catalog, schema, table = node.fqn()
        terms = [*above, *map(from_expr, node.filters())]
        columns = tuple(name for _place, name in node.projection())
        found.append(TableFilter(schema, table, And(tuple(terms)), columns))
        return
    if kind == "Filter":
        above = [*above, from_expr(node.predicate())]
    elif not (kind == "Projection" and _keeps_names(node)):
        above = []
    for child in plan.inputs():
        _walk(child, above, found)


def _keeps_names(projection: Any) -> bool:
    """Tell whether each column that the projection names is the input's column of that name."""
    for expr in projection.projections():
        kind = expr.variant_name()
        if kind == "Alias" and expr.schema_name().startswith("__datafusion_extracted"):
            continue
        if kind != "Column":
            return False
    return True


def from_expr(expr: Expr) -> Predicate:
    """Return what ``expr`` implies. Never raises: an expression without a Python form is `Unknown`."""
    try:
        return _from_variant(expr, expr.to_variant())
    except Exception:  # noqa: BLE001 - many DataFusion expressions have no Python form
        return Unknown()


def _from_variant(expr: Expr, node: Any) -> Predicate:
    match type(node).__name__:
        case "Column":
            return Compare(node.name(), "=", True)
        case "Not":
            return _negate(from_expr(node.expr()))
        case "IsNull":
            return IsNull(_column(node.expr()))
        case "IsNotNull":
            return IsNull(_column(node.expr()), negated=True)
        case "BinaryExpr":
            return _from_binary(node)
        case "InList" if not node.negated():
            return In(_column(node.expr()), tuple(_value(item) for item in node.list()))
        case "Between" if not node.negated():
            column = _column(node.expr())
            return And((Compare(column, ">=", _value(node.low())), Compare(column, "<=", _value(node.high()))))
        case "Like" if not node.negated() and node.escape_char() is None and not _ignores_case(expr, node):
            return _from_like(_column(node.expr()), _value(node.pattern()))
        case "Alias":
            return from_expr(node.expr())
        case _:
            return Unknown()


def _from_binary(node: Any) -> Predicate:
    op = node.op()
    if op in ("AND", "OR"):
        terms = tuple(_flatten(op, (from_expr(node.left()), from_expr(node.right()))))
        return And(terms) if op == "AND" else Or(terms)
    if op not in _FLIPPED:
        return Unknown()
    if node.left().variant_name() == "Column":
        return Compare(_column(node.left()), op, _value(node.right()))
    return Compare(_column(node.right()), _FLIPPED[op], _value(node.left()))


def _flatten(op: str, terms: Iterable[Predicate]) -> Iterable[Predicate]:
    for term in terms:
        if (op == "AND" and isinstance(term, And)) or (op == "OR" and isinstance(term, Or)):
            yield from term.terms
        else:
            yield term


def _from_like(column: str, pattern: str) -> Predicate:
    prefix = pattern.partition("%")[0].partition("_")[0].partition("\\")[0]
    return StartsWith(column, prefix) if prefix else Unknown()


def _ignores_case(expr: Expr, like: Any) -> bool:
    """Tell ILIKE from LIKE, which only the expression's text does."""
    plain = f"{like.expr().canonical_name()} LIKE {like.pattern().canonical_name()}"
    return bool(expr.canonical_name() != plain)


def _negate(predicate: Predicate) -> Predicate:
    if isinstance(predicate, Compare) and isinstance(predicate.value, bool) and predicate.op == "=":
        return Compare(predicate.column, "=", not predicate.value)
    return Unknown()


def _column(expr: Expr) -> str:
    node = expr.to_variant()
    if type(node).__name__ != "Column":
        raise TypeError("not a plain column")
    return str(node.name())


def _value(expr: Expr) -> Any:
    if expr.variant_name() != "Literal":
        raise TypeError("not a literal")
    value = expr.python_value()
    value = value.as_py() if hasattr(value, "as_py") else value
    if value is None:
        raise TypeError("a null literal says nothing about statistics")
    return value
