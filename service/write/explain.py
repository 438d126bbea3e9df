"""EXPLAIN of a statement that writes: the way its rows take, and the plan of the query that feeds it."""

from __future__ import annotations

import pyarrow as pa

from service.write.context import Work
from service.write.statements import Write
from storage.errors import UnsupportedError

__all__ = ["explain"]


async def explain(_work: Work, write: Write) -> pa.Table:
    """Return rows of (plan_type, plan)."""
    raise UnsupportedError("EXPLAIN of this statement is not supported", statement=type(write).__name__)
