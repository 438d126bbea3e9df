"""A server's error answers as exceptions: RFC 9457 problem documents, and whatever a proxy says in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from storage.errors import STATUS, FirnlineError, InternalError, UnavailableError, from_wire

__all__ = ["error_of"]

_CLASSES = {cls.__name__ for cls in STATUS}
_BY_STATUS = {code: cls for cls, code in reversed(STATUS.items())} | {500: InternalError, 502: UnavailableError}
_PLACES = ("row", "key", "line", "column")
_WITH_ID = ("InternalError", "CorruptError")
"""Errors whose statement id is worth showing, since the server's log knows more."""


def error_of(problem: Any, *, status: int = 500, headers: Mapping[str, str] | None = None) -> FirnlineError:
    """Return the exception for a parsed problem document; for anything else the one that the status stands for."""
    facts: dict[str, Any] = {}
    if headers and status in (429, 503) and "Retry-After" in headers:
        facts["retry_after_s"] = headers["Retry-After"]
    if not isinstance(problem, dict) or problem.get("title") not in _CLASSES:
        cls = _BY_STATUS.get(status, InternalError)
        return cls("the answer is none of a Firnline server's; is the URL right?", status=status, **facts)
    title, detail = str(problem["title"]), str(problem.get("detail") or problem["title"])
    names = _PLACES + (("statement_id",) if title in _WITH_ID else ())
    facts |= {name: problem[name] for name in names if problem.get(name) is not None}
    for name, value in facts.items():
        detail = detail.replace(f" {name}={value}", "")
    return from_wire({"error": title, "message": detail, "facts": facts})
