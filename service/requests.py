"""What a client may ask of ``POST /v1/sql`` and ``/v1/lookup``: the body, within its limit, member by member."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Literal, NoReturn, TypeVar

from starlette.types import Receive, Scope

from service.encode import CONTENT_TYPES, FORMATS
from service.statement import Format, Functions, Limits, Route
from storage.errors import CancelledError, InvalidError, TooLargeError

__all__ = [
    "LookupRequest",
    "SqlRequest",
    "accepted_format",
    "header",
    "idempotency_header",
    "parse_lookup_request",
    "parse_sql_request",
    "read_body",
]

_MEMBERS = ("sql", "params", "format", "timeout_ms", "max_rows", "idempotency_key", "mode", "route",
            "functions", "max_tasks", "max_cost", "max_bytes")  # fmt: skip
_LOOKUP_MEMBERS = ("keys", "columns", "by", "format", "timeout_ms", "route")
_MODES = ("sync", "async")
_ROUTES = ("auto", "lookup", "scan")
_FUNCTIONS = ("auto", "inline", "fan-out")
_USD_MAX = 1e9
_KEY_LENGTH_MAX = 255
_NUMBER_MAX = 2**53
_JSON_TYPE = "application/json"
_UNSTATED_TYPES = ("", "application/x-www-form-urlencoded")
"""What clients send that state no type of their own, such as ``curl -d``."""


Number = TypeVar("Number", int, float)


class MediaTypeError(InvalidError):
    """The body is of a type that nobody reads here; an `InvalidError` with a status of its own."""

    http_status = 415


@dataclass(frozen=True, slots=True)
class SqlRequest:
    """A checked request body."""

    sql: str
    params: list[Any] | dict[str, Any] | None = None
    format: Format | None = None
    timeout_ms: int | None = None
    max_rows: int | None = None
    idempotency_key: str | None = None
    mode: Literal["sync", "async"] = "sync"
    route: Route = "auto"
    functions: Functions = "auto"
    max_tasks: int | None = None
    max_cost: float | None = None
    max_bytes: int | None = None

    def limits(self, given: Limits) -> Limits:
        """Return the server's limits, lowered to what the request asks; a request cannot raise them."""
        return replace(
            given,
            timeout_ms=_lower(given.timeout_ms, self.timeout_ms),
            result_rows_max=_lower(given.result_rows_max, self.max_rows),
            scan_bytes_max=_lower(given.scan_bytes_max, self.max_bytes),
            cost_usd_max=_lower(given.cost_usd_max, self.max_cost),
        )


@dataclass(frozen=True, slots=True)
class LookupRequest:
    """A checked request body of a look-up."""

    keys: list[Any]
    columns: tuple[str, ...] | None = None
    by: tuple[str, ...] = ()
    format: Format | None = None
    timeout_ms: int | None = None
    route: Route = "auto"

    def limits(self, given: Limits) -> Limits:
        """Return the server's limits, lowered to what the request asks."""
        return replace(given, timeout_ms=_lower(given.timeout_ms, self.timeout_ms))


def _lower(limit: Number, asked: Number | None) -> Number:
    if asked is None:
        return limit
    return min(limit, asked) if limit else asked


def header(scope: Scope, name: bytes) -> str:
    """Return a request header's value, or the empty string. ``name`` is lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return ""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the request's body. Raises `TooLargeError` as soon as it is known to be longer than ``limit`` bytes."""
    declared = header(scope, b"content-length")
    if declared.isdigit() and int(declared) > limit:
        _too_large(limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CancelledError("the client went away")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            _too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(limit: int) -> NoReturn:
    raise TooLargeError("the request body is too large; put data into a table, not into the statement", bytes_max=limit)


def parse_sql_request(scope: Scope, body: bytes) -> SqlRequest:
    """Return the checked request. Raises `InvalidError` naming the member that is wrong."""
    value = _object(scope, body, _MEMBERS, '{"sql": "SELECT 1"}')
    return SqlRequest(
        sql=_sql(value.get("sql")),
        params=_params(value.get("params")),
        format=_choice(value, "format", FORMATS) or accepted_format(scope),
        timeout_ms=_whole(value, "timeout_ms"),
        max_rows=_whole(value, "max_rows"),
        idempotency_key=_key(value.get("idempotency_key")),
        mode=_choice(value, "mode", _MODES) or "sync",
        route=_choice(value, "route", _ROUTES) or "auto",
        functions=_choice(value, "functions", _FUNCTIONS) or "auto",
        max_tasks=_whole(value, "max_tasks"),
        max_cost=_usd(value, "max_cost"),
        max_bytes=_whole(value, "max_bytes"),
    )


def parse_lookup_request(scope: Scope, body: bytes) -> LookupRequest:
    """Return the checked request of a look-up. Raises `InvalidError` naming the member that is wrong."""
    value = _object(scope, body, _LOOKUP_MEMBERS, '{"keys": [1, 2]}', parse_float=Decimal)
    keys = value.get("keys")
    if not isinstance(keys, list):
        raise InvalidError('the body needs the member "keys", an array', got=type(keys).__name__)
    return LookupRequest(
        keys=keys,
        columns=_names(value, "columns"),
        by=_names(value, "by") or (),
        format=_choice(value, "format", FORMATS) or accepted_format(scope),
        timeout_ms=_whole(value, "timeout_ms"),
        route=_choice(value, "route", _ROUTES) or "auto",
    )


def _names(value: Mapping[str, Any], member: str) -> tuple[str, ...] | None:
    """Return column names: an array of them, or one."""
    found = value.get(member)
    if found is None:
        return None
    names = [found] if isinstance(found, str) else found
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidError(f'"{member}" must be an array of column names', member=member, got=str(found)[:80])
    return tuple(names)


def _object(
    scope: Scope, body: bytes, members: tuple[str, ...], example: str, parse_float: Callable[[str], Any] = float
) -> dict[str, Any]:
    """Return the body's JSON object, which has none but these members."""
    content_type = header(scope, b"content-type").partition(";")[0].strip().lower()
    # A web page may post such types to any site, this machine's own ports included, but its browser says so.
    from_a_page = bool(header(scope, b"origin"))
    if content_type != _JSON_TYPE and (content_type not in _UNSTATED_TYPES or from_a_page):
        raise MediaTypeError("send the statement as application/json", content_type=content_type)
    value = _parse_json(body, parse_float)
    if not isinstance(value, dict):
        raise InvalidError(f"the body must be a JSON object such as {example}", got=type(value).__name__)
    for name in value:
        if name not in members:
            near = get_close_matches(name, members, 1)
            hint = f'; did you mean "{near[0]}"?' if near else f"; there are {', '.join(members)}"
            raise InvalidError(f"unknown member of the body{hint}", member=name[:80])
    return value


def _parse_json(body: bytes, parse_float: Callable[[str], Any]) -> Any:
    try:
        return json.loads(body.decode("utf-8-sig"), parse_constant=_no_constant, parse_float=parse_float)
    except RecursionError:
        raise InvalidError("the JSON of the body is nested too deeply") from None
    except UnicodeDecodeError:
        raise InvalidError("the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise InvalidError(
            f"the body is not JSON: {error.msg.lower()}", line=error.lineno, column=error.colno
        ) from None
    except ValueError:
        raise InvalidError("the body is not JSON that is read: a number has thousands of digits") from None


def _no_constant(name: str) -> NoReturn:
    raise InvalidError(f"the body is not JSON: {name} is no JSON value")


def _sql(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidError('the body needs the member "sql", a string', got=type(value).__name__)
    if not value.strip():
        raise InvalidError('the member "sql" is empty; send a statement such as SELECT 1')
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidError('the member "sql" holds half of a surrogate pair') from None
    return value


def _params(value: Any) -> list[Any] | dict[str, Any] | None:
    if value is None or isinstance(value, (list, dict)):
        return value
    raise InvalidError(
        '"params" must be an array for $1, $2, … or an object for :name', member="params", got=type(value).__name__
    )


def _choice(value: Mapping[str, Any], name: str, choices: tuple[Any, ...]) -> Any:
    found = value.get(name)
    if found is not None and found not in choices:
        raise InvalidError(f'"{name}" must be one of {", ".join(choices)}', member=name, got=str(found)[:80])
    return found


def _whole(value: Mapping[str, Any], name: str) -> int | None:
    found = value.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= _NUMBER_MAX:
        raise InvalidError(f'"{name}" must be a whole number of at least 1', member=name, got=str(found)[:80])
    return found


def _usd(value: Mapping[str, Any], name: str) -> float | None:
    found = value.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found <= _USD_MAX:
        raise InvalidError(f'"{name}" must be a sum in USD above 0', member=name, got=str(found)[:80])
    return float(found)


def idempotency_header(scope: Scope) -> str | None:
    """Return the ``Idempotency-Key`` header; None without one. Raises `InvalidError` for one that is too long."""
    return _key(header(scope, b"idempotency-key") or None)


def _key(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and 0 < len(value) <= _KEY_LENGTH_MAX):
        return value
    raise InvalidError(
        f'"idempotency_key" must be a string of 1 to {_KEY_LENGTH_MAX} characters', member="idempotency_key"
    )


_BY_TYPE: dict[str, Format] = {kind.partition(";")[0]: form for form, kind in CONTENT_TYPES.items()} | {
    "application/vnd.apache.arrow.file": "arrow",
    "application/x-ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "application/parquet": "parquet",
}


def accepted_format(scope: Scope) -> Format | None:
    """Return the first format of the Accept header, by its weights; None when it names none of ours."""
    best: tuple[float, Format | None] = (0.0, None)
    for part in header(scope, b"accept").split(","):
        kind, *options = (piece.strip().lower() for piece in part.split(";"))
        weight = next((_weight(option[2:]) for option in options if option.startswith("q=")), 1.0)
        if kind in _BY_TYPE and weight > best[0]:
            best = (weight, _BY_TYPE[kind])
    return best[1]


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
