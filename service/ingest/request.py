"""What a client may ask of ``POST /v1/tables/{name}/rows``: its query and its headers, checked one by one."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from urllib.parse import parse_qsl

from starlette.types import Scope

from service.ingest.csv_rows import CsvOptions
from service.ingest.decode import RowFormat, format_of
from service.ingest.ingest import Asked, OnConflict
from service.requests import header
from storage.errors import InvalidError
from storage.log import AckMode

__all__ = ["RowsRequest", "parse_rows_request"]

_OPTIONS = ("ack", "on_conflict", "delimiter", "null")
_ON_CONFLICT: tuple[OnConflict, ...] = ("update", "nothing", "error")
_KEY_LENGTH_MAX = 255


@dataclass(frozen=True, slots=True)
class RowsRequest:
    """A checked request, but for its body."""

    namespace: str
    name: str
    form: RowFormat
    encoding: str
    asked: Asked


def parse_rows_request(scope: Scope) -> RowsRequest:
    """Return what is asked. Raises `InvalidError` naming what is wrong."""
    namespace, dot, name = scope["path_params"]["name"].partition(".")
    if not dot:
        namespace, name = "default", namespace
    options = _options(scope)
    form = format_of(header(scope, b"content-type"), from_a_page=bool(header(scope, b"origin")))
    for each in ("delimiter", "null"):
        if each in options and form != "csv":
            raise InvalidError(f'"{each}" is for CSV', format=form)
    asked = Asked(
        _ack(options.get("ack")),
        _on_conflict(options.get("on_conflict")),
        _key(header(scope, b"idempotency-key"), any(key == b"idempotency-key" for key, _value in scope["headers"])),
        CsvOptions(options.get("delimiter", ","), options.get("null", "")),
    )
    return RowsRequest(namespace, name, form, header(scope, b"content-encoding"), asked)


def _options(scope: Scope) -> dict[str, str]:
    text = scope["query_string"].decode("latin-1")
    if not text:
        return {}
    options: dict[str, str] = {}
    for name, value in parse_qsl(text, keep_blank_values=True, max_num_fields=20):
        if name not in _OPTIONS:
            near = get_close_matches(name, _OPTIONS, 1)
            hint = f'; did you mean "{near[0]}"?' if near else f"; there are {', '.join(_OPTIONS)}"
            raise InvalidError(f"unknown option of the request{hint}", option=name[:80])
        if name in options:
            raise InvalidError("an option is there twice", option=name)
        options[name] = value
    return options


def _ack(text: str | None) -> AckMode | None:
    if text is None:
        return None
    try:
        return AckMode(text)
    except ValueError:
        raise InvalidError('"ack" must be object or fsync', ack=text[:80]) from None


def _on_conflict(text: str | None) -> OnConflict | None:
    for each in _ON_CONFLICT:
        if text == each:
            return each
    if text is None:
        return None
    raise InvalidError(f'"on_conflict" must be one of {", ".join(_ON_CONFLICT)}', on_conflict=text[:80])


def _key(text: str, given: bool) -> str | None:
    if not given:
        return None
    if not 0 < len(text) <= _KEY_LENGTH_MAX or not text.isascii() or not text.isprintable():
        raise InvalidError(f"Idempotency-Key must have 1 to {_KEY_LENGTH_MAX} printable ASCII characters")
    return text
