"""A client's parameters, by the names that a statement uses: ``$1, $2, …`` for a list, ``:name`` for an object."""

from __future__ import annotations

import decimal
from collections.abc import Mapping, Sequence
from typing import Any

from storage.errors import InvalidError

__all__ = ["bind", "given", "named"]


def named(params: Sequence[Any] | Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the parameters that are given by name, without what marks one in a statement."""
    return {str(key).lstrip(":$"): value for key, value in params.items()} if isinstance(params, Mapping) else {}


def bind(params: Sequence[Any] | Mapping[str, Any] | None, used: set[str]) -> dict[str, Any]:
    """Return the values of the parameters that a statement uses, as the engine takes them.

    Raises `InvalidError` for one that is not given, or is given and not used.
    """
    if params is None:
        found: dict[str, Any] = {}
    elif isinstance(params, Mapping):
        found = dict(named(params))
    elif isinstance(params, (str, bytes)):
        raise InvalidError("params must be a list for $1, $2, … or an object for :name", got=type(params).__name__)
    else:
        found = {str(number): value for number, value in enumerate(params, 1)}
    for name in sorted(used - found.keys()):
        raise InvalidError("the statement uses a parameter that params does not give", parameter=f"${name}")
    for name in sorted(found.keys() - used):
        raise InvalidError("params gives a parameter that the statement does not use", parameter=name)
    return {name: _sized(name, value) for name, value in found.items()}


def given(params: Sequence[Any] | Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the parameters by name; those of a list are named by their numbers."""
    if params is None or isinstance(params, (str, bytes, Mapping)):
        return named(params if isinstance(params, Mapping) else None)
    return {str(number): value for number, value in enumerate(params, 1)}


def _sized(name: str, value: Any) -> Any:
    """Return an integer past 64 bits as a decimal, which the engine takes."""
    if type(value) is not int or -(1 << 63) <= value < 1 << 63:
        return value
    if abs(value) >= 10**38:
        raise InvalidError("an integer parameter has more than 38 digits", parameter=f"${name}")
    return decimal.Decimal(value)
