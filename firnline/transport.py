"""The contract between a `Connection` and whatever runs its statements: the engine in this process, or a server.

1. `Transport.run` returns once the statement is planned and its schema known, or raises its error.
2. An `Answer` belongs to one reader; `Answer.close` may come from any thread and cancels what still runs.
3. A reader that is interrupted (Ctrl-C) has cancelled its statement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from service.statement import Receipt, Route

if TYPE_CHECKING:
    from service.ingest.ingest import Asked, Ingested
    from service.progress import Progress

__all__ = ["Answer", "Params", "Transport", "split_name"]

Params = Sequence[Any] | Mapping[str, Any] | None
"""A sequence for ``$1, $2, …``, a mapping for ``:name``, or None."""


class Answer(Protocol):
    """A running statement."""

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        ...

    def read(self) -> pa.RecordBatch | None:
        """Return the next batch, or None at the end. Raises the statement's error."""
        ...

    def read_all(self) -> list[pa.RecordBatch]:
        """Return all batches that are left."""
        ...

    def receipt(self) -> Receipt:
        """Return what the statement cost; complete once it is read to its end."""
        ...

    def close(self) -> None:
        """Cancel what still runs and release it; closing twice is no error."""
        ...


class Transport(Protocol):
    """Runs statements. Safe for use by several threads."""

    def run(
        self, sql: str, params: Params, *, timeout_ms: int | None, max_rows: int | None, route: Route = "auto"
    ) -> Answer:
        """Start a statement; None for a limit means the default. Raises a `storage.errors.FirnlineError`."""
        ...

    def lookup(
        self, table: str, keys: Sequence[Any], *, by: Sequence[str], columns: Sequence[str] | None, route: Route,
        timeout_ms: int | None,
    ) -> Answer:  # fmt: skip
        """Start to look up keys, which are ready for JSON; the answer's schema says which were found.

        ``by`` may be empty: the table's own key; ``columns`` None: all. Raises a `storage.errors.FirnlineError`.
        """
        ...

    def append(self, table: str, rows: pa.Table, asked: Asked) -> Ingested:
        """Store the rows, all or none, and return once they are durable. ``table`` is ``namespace.table`` or a name.

        Raises a `storage.errors.FirnlineError`; after `IndeterminateError` the same idempotency key tells.
        """
        ...

    def progress(self) -> Progress | None:
        """Return how far the newest statement is, if it tells; asked from another thread while it runs."""
        ...

    def close(self) -> None:
        """Cancel every statement and release everything; closing twice is no error."""
        ...


def split_name(table: str) -> tuple[str, str]:
    """Return namespace and name of ``namespace.table``; a name alone is in ``default``."""
    namespace, dot, name = table.partition(".")
    return (namespace, name) if dot else ("default", namespace)
