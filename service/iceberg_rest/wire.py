"""What requests and answers of the Iceberg REST API are made of: names, pages, and parts of a table's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qs

from starlette.types import Scope

from storage.errors import InvalidError, NotFoundError

__all__ = ["identifier", "json_object", "namespace_of", "page", "parameter", "path_namespace", "with_refs_only"]

T = TypeVar("T")
SEPARATOR = "\x1f"
PAGE_SIZE_MAX = 1000


def parameter(scope: Scope, name: str) -> str | None:
    """Return a query parameter; an empty one counts as missing."""
    found = parse_qs(scope["query_string"].decode("latin-1")).get(name)
    return found[0] if found else None


def path_namespace(scope: Scope) -> str:
    """Return the namespace of the path. Raises `NotFoundError` for one of several levels: there are none here."""
    name: str = scope["path_params"]["namespace"]
    if SEPARATOR in name:
        raise NotFoundError("no such namespace; they have one level here", namespace=name.replace(SEPARATOR, "."))
    return name


def namespace_of(value: Any) -> str:
    """Return the namespace of a body's list of levels. Raises `InvalidError`."""
    if not isinstance(value, list) or not value or not all(isinstance(level, str) for level in value):
        raise InvalidError('"namespace" must be an array of strings')
    if len(value) > 1:
        raise InvalidError("namespaces have one level here", namespace=".".join(value)[:200])
    return str(value[0])


def identifier(value: Any) -> tuple[str, str]:
    """Return (namespace, name) of a body's table identifier. Raises `InvalidError`."""
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise InvalidError('a table is told as {"namespace": […], "name": "…"}')
    return namespace_of(value.get("namespace")), value["name"]


def json_object(body: bytes) -> dict[str, Any]:
    """Return a body's object. Raises `InvalidError`."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidError("the body is not JSON", reason=str(error)[:200]) from error
    if not isinstance(value, dict):
        raise InvalidError("the body must be a JSON object", got=type(value).__name__)
    return value


def page(items: Sequence[T], keys: Sequence[str], scope: Scope) -> tuple[list[T], str | None]:
    """Return the items that the request's page has, and the token of the next one.

    Parameters
    ----------
    keys : of the items, increasing; the token of a page is the last key before it, so that items which come or go
        between two requests move no other
    """
    size_text, token = parameter(scope, "pageSize"), parameter(scope, "pageToken")
    if size_text is None and token is None:
        return list(items), None
    if size_text is not None and not (size_text.isascii() and size_text.isdigit() and int(size_text) > 0):
        raise InvalidError('"pageSize" must be a whole number of at least 1', pageSize=size_text[:80])
    size = min(int(size_text), PAGE_SIZE_MAX) if size_text else PAGE_SIZE_MAX
    first = next((index for index, key in enumerate(keys) if token is None or key > token), len(keys))
    limit = first + size
    return list(items[first:limit]), keys[limit - 1] if limit < len(keys) else None


def with_refs_only(document: dict[str, Any]) -> dict[str, Any]:
    """Return a table's metadata with only those snapshots that a branch or tag names."""
    named = {ref["snapshot-id"] for ref in (document.get("refs") or {}).values()}
    named.add(document.get("current-snapshot-id"))
    kept = [each for each in document.get("snapshots") or () if each["snapshot-id"] in named]
    return document | {"snapshots": kept}
