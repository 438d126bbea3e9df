"""Primary keys of the rows that a statement writes: unique among themselves, and looked up in the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from functions.keys import check_keys, key_hashes
from service.cursor import TableName
from service.write.compose import Text, quoted
from service.write.context import Work
from service.write.feed import Answer, answer
from storage.errors import ConflictError

__all__ = ["check_unique", "existing", "key_condition", "shown_key"]

LISTED_MAX = 500
"""Keys up to this many are looked up as a list, more as a range."""


def check_unique(rows: pa.Table, key: Sequence[str]) -> None:
    """Raise `ConflictError` naming a key that two rows have, `InvalidError` for one with a null."""
    check_keys(rows, key)
    hashes = key_hashes(rows, key)
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    if len(same):
        row = int(order[same[0] + 1])
        raise ConflictError(
            "two rows of the statement have the same primary key", key=shown_key(rows, key, row), row=row + 1
        )


def shown_key(rows: pa.Table, key: Sequence[str], row: int) -> str:
    """Return one row's key for a message."""
    return "(" + ", ".join(f"{name}={str(rows.column(name)[row].as_py())[:60]}" for name in key) + ")"


async def existing(work: Work, table: TableName, rows: pa.Table, key: Sequence[str]) -> tuple[np.ndarray, Answer]:
    """Return which of the rows have a key that the table has, as bool[n], and what was read to know it."""
    if not rows.num_rows:
        return np.zeros(0, bool), Answer(rows.select(key), {}, {})
    extra: dict[str, Any] = {}
    text = Text(work.parsed.sql).add(
        f"SELECT {', '.join(map(quoted, key))} FROM {quoted(*table)} WHERE {key_condition(rows, key, extra)}"
    )
    found = await answer(work, text, extra=extra)
    return np.isin(key_hashes(rows, key), key_hashes(found.rows, key)), found


def key_condition(rows: pa.Table, key: Sequence[str], extra: dict[str, Any]) -> str:
    """Return what the rows' keys fulfil, and others may: it prunes files. Its parameters go into ``extra``."""
    return " AND ".join(_condition(name, rows.column(name), extra) for name in key) if rows.num_rows else "false"


def _condition(name: str, column: pa.ChunkedArray, extra: dict[str, Any]) -> str:
    """Return what all keys fulfil in this column, with parameters for the values."""
    values = pc.unique(column)
    if len(values) <= LISTED_MAX:
        named = [_param(value, extra) for value in values.to_pylist()]
        return f"{quoted(name)} IN ({', '.join(named)})"
    bounds = pc.min_max(column).as_py() if not pa.types.is_boolean(column.type) else None
    if bounds is None:
        return "true"
    return f"{quoted(name)} BETWEEN {_param(bounds['min'], extra)} AND {_param(bounds['max'], extra)}"


def _param(value: Any, extra: dict[str, Any]) -> str:
    name = f"firn_key_{len(extra)}"
    extra[name] = value
    return f"${name}"
