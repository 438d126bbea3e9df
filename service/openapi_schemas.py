"""The schemas of the OpenAPI description: what is sent and what is answered."""

from __future__ import annotations

from typing import Any

from service.encode import FORMATS
from storage.errors import STATUS

__all__ = ["ref", "schemas"]

_TEXT, _WHOLE, _ANYTHING = {"type": "string"}, {"type": "integer"}, {"type": "object"}
_COLUMN = {"type": "object", "required": ["name", "type"], "properties": {"name": _TEXT, "type": _TEXT}}
_ROUTE = {
    "enum": ["auto", "lookup", "scan"],
    "default": "auto",
    "description": "how rows of pinned keys are found: as costs less, by an index, or never by one",
}


def schemas() -> dict[str, Any]:
    """Return each schema by its name."""
    return {
        "SqlRequest": _sql_request(),
        "LookupRequest": _lookup_request(),
        "Found": _found(),
        "Result": _result(),
        "Rows": _rows(),
        "Statement": _statement(),
        "Problem": _problem(),
    }


def ref(name: str) -> dict[str, str]:
    """Return a reference to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def _sql_request() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["sql"],
        "additionalProperties": False,
        "properties": {
            "sql": _TEXT,
            "params": {"type": ["array", "object", "null"], "description": "for $1, $2, … or for :name"},
            "format": {"enum": list(FORMATS), "description": "else the Accept header, else json"},
            "timeout_ms": {"type": "integer", "minimum": 1, "description": "lowers the server's limit"},
            "max_rows": {"type": "integer", "minimum": 1, "description": "a larger result is an error"},
            "idempotency_key": {"type": "string", "minLength": 1, "maxLength": 255},
            "mode": {"enum": ["sync", "async"], "default": "sync"},
            "route": _ROUTE,
            "functions": {"enum": ["auto", "inline", "fan-out"], "default": "auto"},
            "max_tasks": {"type": "integer", "minimum": 1, "description": "tasks at once"},
            "max_cost": {
                "type": "number",
                "exclusiveMinimum": 0,
                "description": "USD, as estimated before it runs",
            },
            "max_bytes": {"type": "integer", "minimum": 1, "description": "that it may scan, after pruning"},
        },
    }


def _lookup_request() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["keys"],
        "additionalProperties": False,
        "properties": {
            "keys": {"type": "array", "description": "a value each, or an array of values for several columns"},
            "columns": {"type": "array", "items": _TEXT, "description": "else the key's, then the others"},
            "by": {"type": "array", "items": _TEXT, "description": "else the primary key, else the only index"},
            "format": {"enum": list(FORMATS), "description": "else the Accept header, else json"},
            "timeout_ms": {"type": "integer", "minimum": 1, "description": "lowers the server's limit"},
            "route": _ROUTE,
        },
    }


def _found() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["statement_id", "columns", "rows", "row_count", "found", "missing", "receipt"],
        "properties": {
            "statement_id": _TEXT,
            "columns": {"type": "array", "items": _COLUMN},
            "rows": {"type": "array", "items": {"type": "array"}, "description": "in the order of the keys"},
            "row_count": _WHOLE,
            "found": {"type": "array", "items": {"type": "boolean"}, "description": "of each key"},
            "missing": {"type": "array", "description": "keys that were not found, as they were sent"},
            "receipt": _ANYTHING,
            "error": ref("Problem"),
        },
    }


def _result() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["statement_id", "columns", "rows", "row_count", "receipt"],
        "properties": {
            "statement_id": _TEXT,
            "columns": {"type": "array", "items": _COLUMN},
            "rows": {"type": "array", "items": {"type": "array"}},
            "row_count": _WHOLE,
            "receipt": _ANYTHING,
            "error": ref("Problem"),
        },
    }


def _rows() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["table", "rows", "ack", "position", "receipt"],
        "properties": {
            "table": _TEXT,
            "rows": _WHOLE,
            "ack": {"enum": ["object", "fsync", None]},
            "position": {"type": ["integer", "null"], "description": "in the log"},
            "idempotent_replay": {"type": "boolean", "description": "stored earlier, under this key"},
            "receipt": _ANYTHING,
        },
    }


def _statement() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["statement_id", "state"],
        "properties": {
            "statement_id": _TEXT,
            "state": {"enum": ["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]},
            "created_ms": _WHOLE,
            "finished_ms": _WHOLE,
            "expires_ms": _WHOLE,
            "row_count": _WHOLE,
            "pages": _WHOLE,
            "links": _ANYTHING,
            "result": {"type": "array", "items": _ANYTHING},
            "receipt": _ANYTHING,
            "progress": {
                "type": "object",
                "description": "of a statement that tells how far it is, while it runs",
                "properties": {
                    "what": _TEXT,
                    "n_done": _WHOLE,
                    "n_total": {"type": ["integer", "null"]},
                    "elapsed_ms": _WHOLE,
                    "left_ms": {"type": ["integer", "null"]},
                },
            },
            "error": ref("Problem"),
        },
    }


def _problem() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": _TEXT,
            "title": {"enum": sorted(cls.__name__ for cls in STATUS)},
            "status": _WHOLE,
            "detail": _TEXT,
            "statement_id": _TEXT,
            "row": _WHOLE,
            "key": {"type": "integer", "description": "of those to look up, from 1"},
            "line": _WHOLE,
            "column": {"type": ["integer", "string"], "description": "of the SQL, from 1; of the rows, its name"},
        },
    }
