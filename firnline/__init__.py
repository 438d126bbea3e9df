"""Firnline: SQL over Parquet, Delta and Iceberg, in this process or over HTTP.

::

    import firnline

    with firnline.connect("./lake") as lake:                      # or s3://bucket/prefix, or http://host:8080
        table = lake.sql("SELECT count(*) AS n FROM delta('s3://bucket/orders') WHERE year = $1", [2024])
        table.to_pylist(), table.to_polars(), table.receipt

`connect`, `Connection`, `ResultTable` and `ResultStream` are loaded on first use, so that importing this package costs
next to nothing. The error classes are those of `storage.errors`, grouped by what the caller should do.
`firnline.dbapi` is the DB-API 2.0 module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from storage.errors import (
    CancelledError,
    ConflictError,
    CorruptError,
    FencedError,
    FirnlineError,
    ForbiddenError,
    IndeterminateError,
    InternalError,
    InvalidError,
    LimitError,
    NotFoundError,
    OverloadedError,
    SqlError,
    StatementTimeoutError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from firnline.appending import AppendReceipt
    from firnline.connection import Connection, connect
    from firnline.lookup import LookupResult
    from firnline.result import ResultStream, ResultTable

__all__ = [
    "AppendReceipt",
    "CancelledError",
    "ConflictError",
    "Connection",
    "CorruptError",
    "FencedError",
    "FirnlineError",
    "ForbiddenError",
    "IndeterminateError",
    "InternalError",
    "InvalidError",
    "LimitError",
    "LookupResult",
    "NotFoundError",
    "OverloadedError",
    "ResultStream",
    "ResultTable",
    "SqlError",
    "StatementTimeoutError",
    "TooLargeError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
    "__version__",
    "connect",
]

_LAZY = {
    "AppendReceipt": "firnline.appending",
    "Connection": "firnline.connection",
    "connect": "firnline.connection",
    "LookupResult": "firnline.lookup",
    "ResultStream": "firnline.result",
    "ResultTable": "firnline.result",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("firnline")
    if name not in _LAZY:
        raise AttributeError(f"module 'firnline' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
