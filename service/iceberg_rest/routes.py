"""The routes of the Iceberg REST catalog. Errors are raised and answered in the API's own form.

Source: Apache Iceberg REST Catalog API (``open-api/rest-catalog-open-api.yaml``).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import Receive, Scope, Send

from catalog.namespaces import change_properties, namespace_properties
from service.auth import Auth
from service.iceberg_rest.catalog import IcebergCatalog, LoadedTable
from service.iceberg_rest.errors import AlreadyExistsError, NotEmptyError, send_error
from service.iceberg_rest.wire import (
    identifier,
    json_object,
    namespace_of,
    page,
    parameter,
    path_namespace,
    with_refs_only,
)
from service.problems import send_json
from service.requests import header, read_body
from storage.errors import ConflictError, FirnlineError, ForbiddenError, InternalError, InvalidError

__all__ = ["PREFIX", "iceberg_routes"]

PREFIX = "/iceberg/v1"
_log = logging.getLogger("firnline.iceberg")
_SPACES, _SPACE = "/namespaces", "/namespaces/{namespace}"
_TABLES, _TABLE = f"{_SPACE}/tables", f"{_SPACE}/tables/{{table}}"
_BODY_BYTES_MAX = 64 << 20

Answer = Callable[[Scope, dict[str, Any]], Awaitable[dict[str, Any] | None]]


class _Route:
    """One route as an ASGI app: who asks, what it says, and the answer or error. None is an answer without a body."""

    def __init__(self, auth: Auth, answer: Answer, *, writes: bool, takes_body: bool) -> None:
        self._auth, self._answer, self._writes, self._takes_body = auth, answer, writes, takes_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_head = scope["method"] == "HEAD"
        try:
            caller = await self._auth.caller(scope)
            if self._writes and caller.role == "reader":
                raise ForbiddenError("a reader may not write; use a writer's or an admin's token", role=caller.role)
            body = await read_body(scope, receive, _BODY_BYTES_MAX) if self._takes_body else b""
            value = await self._answer(scope, json_object(body) if self._takes_body else {})
        except FirnlineError as error:
            await send_error(send, error, has_body=not is_head)
            return
        except Exception as error:  # noqa: BLE001 - clients of this API read errors in its own form only
            _log.error("request failed", extra={"path": scope["path"]}, exc_info=error)
            ours = InternalError("an internal error; the log has the details")
            await send_error(send, ours, has_body=not is_head)
            return
        if value is None or is_head:
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        etag = value.pop("etag", None)
        if etag is not None and header(scope, b"if-none-match") == etag:
            await send({"type": "http.response.start", "status": 304, "headers": [(b"etag", etag.encode())]})
            await send({"type": "http.response.body", "body": b""})
            return
        await send_json(send, value, headers={"ETag": etag} if etag else None)


def iceberg_routes(catalog: IcebergCatalog, auth: Auth) -> list[tuple[str, str, Any]]:
    """Return (method, path, ASGI app) of every route. HEAD comes before GET, whose route would take it."""
    bound = _Answers(catalog)

    def route(method: str, path: str, answer: Answer, *, writes: bool = False) -> tuple[str, str, Any]:
        return method, PREFIX + path, _Route(auth, answer, writes=writes, takes_body=method == "POST")

    return [
        route("GET", "/config", bound.config),
        route("GET", _SPACES, bound.list_namespaces),
        route("POST", _SPACES, bound.create_namespace, writes=True),
        route("HEAD", _SPACE, bound.load_namespace),
        route("GET", _SPACE, bound.load_namespace),
        route("DELETE", _SPACE, bound.drop_namespace, writes=True),
        route("POST", f"{_SPACE}/properties", bound.update_namespace, writes=True),
        route("GET", _TABLES, bound.list_tables),
        route("POST", _TABLES, bound.create_table, writes=True),
        route("POST", f"{_SPACE}/register", bound.register_table, writes=True),
        route("HEAD", _TABLE, bound.find_table),
        route("GET", _TABLE, bound.load_table),
        route("POST", _TABLE, bound.commit_table, writes=True),
        route("DELETE", _TABLE, bound.drop_table, writes=True),
        route("POST", f"{_TABLE}/metrics", bound.metrics),
        route("POST", "/tables/rename", bound.rename_table, writes=True),
    ]


_SERVED = (
    ("GET", _SPACES), ("POST", _SPACES), ("HEAD", _SPACE), ("GET", _SPACE), ("DELETE", _SPACE),
    ("POST", f"{_SPACE}/properties"), ("GET", _TABLES), ("POST", _TABLES), ("POST", f"{_SPACE}/register"),
    ("HEAD", _TABLE), ("GET", _TABLE), ("POST", _TABLE), ("DELETE", _TABLE), ("POST", f"{_TABLE}/metrics"),
    ("POST", "/tables/rename"),
)  # fmt: skip


class _Answers:
    def __init__(self, catalog: IcebergCatalog) -> None:
        self._catalog = catalog

    async def config(self, _scope: Scope, _body: dict[str, Any]) -> dict[str, Any]:
        """Say what is served here."""
        endpoints = [f"{method} /v1/{{prefix}}{path}" for method, path in _SERVED]
        return {"defaults": {}, "overrides": {}, "endpoints": endpoints}

    async def list_namespaces(self, scope: Scope, _body: dict[str, Any]) -> dict[str, Any]:
        """List the namespaces; below another one there are none."""
        parent = parameter(scope, "parent")
        if parent is not None:
            await self._catalog.check_namespace(parent)
            return {"namespaces": [], "next-page-token": None}
        names = await self._catalog.tables.namespaces()
        found, token = page(names, names, scope)
        return {"namespaces": [[name] for name in found], "next-page-token": token}

    async def create_namespace(self, _scope: Scope, body: dict[str, Any]) -> dict[str, Any]:
        """Make a namespace."""
        name, properties = namespace_of(body.get("namespace")), _strings(body, "properties")
        try:
            await self._catalog.tables.create_namespace(name)
        except ConflictError as error:
            raise AlreadyExistsError(error.message, **error.facts) from error
        if properties:
            await change_properties(self._catalog.kv, name, updates=properties)
        return {"namespace": [name], "properties": properties}

    async def load_namespace(self, scope: Scope, _body: dict[str, Any]) -> dict[str, Any]:
        """Show a namespace's properties."""
        name = path_namespace(scope)
        return {"namespace": [name], "properties": await namespace_properties(self._catalog.kv, name)}

    async def drop_namespace(self, scope: Scope, _body: dict[str, Any]) -> None:
        """Drop an empty namespace."""
        try:
            await self._catalog.tables.drop_namespace(path_namespace(scope))
        except ConflictError as error:
            raise NotEmptyError(error.message, **error.facts) from error

    async def update_namespace(self, scope: Scope, body: dict[str, Any]) -> dict[str, Any]:
        """Set and remove a namespace's properties."""
        removals, updates = body.get("removals") or [], _strings(body, "updates")
        if not isinstance(removals, list) or set(removals) & set(updates):
            raise InvalidError('"removals" is an array of names, none of which is in "updates"')
        changed = await change_properties(self._catalog.kv, path_namespace(scope), map(str, removals), updates)
        return {"removed": changed.removed, "updated": changed.updated, "missing": changed.missing}

    async def list_tables(self, scope: Scope, _body: dict[str, Any]) -> dict[str, Any]:
        """List a namespace's Iceberg tables."""
        namespace = path_namespace(scope)
        names = await self._catalog.names(namespace)
        found, token = page(names, names, scope)
        tables = [{"namespace": [namespace], "name": name} for name in found]
        return {"identifiers": tables, "next-page-token": token}

    async def create_table(self, scope: Scope, body: dict[str, Any]) -> dict[str, Any]:
        """Make or stage a table."""
        return self._told(await self._catalog.create(path_namespace(scope), body))

    async def register_table(self, scope: Scope, body: dict[str, Any]) -> dict[str, Any]:
        """Name a table that lies there already."""
        return self._told(await self._catalog.register(path_namespace(scope), body))

    async def find_table(self, scope: Scope, _body: dict[str, Any]) -> None:
        """Say whether a table is there."""
        await self._catalog.entry(path_namespace(scope), scope["path_params"]["table"])

    async def load_table(self, scope: Scope, _body: dict[str, Any]) -> dict[str, Any]:
        """Show a table's metadata."""
        found = await self._catalog.load(
            await self._catalog.entry(path_namespace(scope), scope["path_params"]["table"])
        )
        which = parameter(scope, "snapshots") or "all"
        if which not in ("all", "refs"):
            raise InvalidError('"snapshots" must be all or refs', snapshots=which[:80])
        told = self._told(found)
        if which == "refs":
            told["metadata"] = with_refs_only(found.metadata)
        mark = hashlib.sha256(f"{found.metadata_location} {which}".encode()).hexdigest()[:32]
        return told | {"etag": f'"{mark}"'}

    async def commit_table(self, scope: Scope, body: dict[str, Any]) -> dict[str, Any]:
        """Commit to a table, or make one that was staged."""
        namespace, name = path_namespace(scope), scope["path_params"]["table"]
        if body.get("identifier") is not None and identifier(body["identifier"]) != (namespace, name):
            raise InvalidError("the body names another table than the path")
        found = await self._catalog.commit(namespace, name, body)
        return {"metadata-location": found.metadata_location, "metadata": found.metadata}

    async def drop_table(self, scope: Scope, _body: dict[str, Any]) -> None:
        """Drop a table, its files too if they are asked to go."""
        purge = (parameter(scope, "purgeRequested") or "").lower() == "true"
        await self._catalog.drop(path_namespace(scope), scope["path_params"]["table"], purge=purge)

    async def metrics(self, scope: Scope, _body: dict[str, Any]) -> None:
        """Take a report of a scan or commit, which nobody reads."""
        await self._catalog.entry(path_namespace(scope), scope["path_params"]["table"])

    async def rename_table(self, _scope: Scope, body: dict[str, Any]) -> None:
        """Give a table another name."""
        await self._catalog.rename(identifier(body.get("source")), identifier(body.get("destination")))

    def _told(self, found: LoadedTable) -> dict[str, Any]:
        place = {} if found.metadata_location is None else {"metadata-location": found.metadata_location}
        return place | {"metadata": found.metadata, "config": dict(self._catalog.table_config)}


def _strings(body: dict[str, Any], member: str) -> dict[str, str]:
    value = body.get(member) or {}
    if not isinstance(value, dict):
        raise InvalidError(f'"{member}" must be an object of strings')
    return {str(key): str(item) for key, item in value.items()}
