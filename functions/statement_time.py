"""What ``now()`` and its like mean: one moment for all plans of a statement.

The engine folds them whenever it makes a plan, and a statement is planned more than once: to prune files, to run, to be
cut into tasks. Each would have a moment of its own. So functions of ours take the engine's place under the same names,
and give the moment that the statement was given. They are folded at planning as the engine's are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa
from datafusion import SessionConfig, SessionContext, udf

from functions.session import TIME_WORDS

__all__ = ["Moment", "StatementTime"]

Moment = Mapping[str, pa.Array]
"""One value for each of `functions.session.TIME_WORDS`, of the engine's own type."""


class StatementTime:
    """Gives moments, and makes plans of a session see the one that is set.

    config : of the session, whose time zone the values have
    """

    def __init__(self, context: SessionContext, config: SessionConfig) -> None:
        self._native = SessionContext(config)
        self._moment = self.take()
        for name, value in self._moment.items():
            context.register_udf(udf(self._giving(name), [], value.type, "immutable", name))

    def take(self) -> Moment:
        """Return what the engine says that the time is."""
        named = ", ".join(f"{name}() AS {name}" for name in TIME_WORDS)
        [row] = self._native.sql(f"SELECT {named}").collect()
        return dict(zip(row.schema.names, row.columns, strict=True))

    def set(self, moment: Moment) -> None:
        """Let plans from now on see this moment."""
        self._moment = moment

    def _giving(self, name: str) -> Callable[[], pa.Array]:
        return lambda: self._moment[name]
