"""Which keys of a look-up were found: a note on the answer's schema, which every format and process passes on."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from service.statement import Statement

__all__ = ["FOUND", "MISSING", "found_of", "members", "missing_of", "noted"]

FOUND = b"firnline.found"
"""Schema metadata: base64 of a bit for each key in the order asked, the first the highest of the first byte."""
MISSING = b"firnline.missing"
"""Schema metadata: how many of the keys were not found, in decimal."""


def noted(schema: pa.Schema, found: np.ndarray) -> pa.Schema:
    """Return the schema with a note of ``found``: bool[k]."""
    bits = base64.b64encode(np.packbits(found).tobytes())
    n_missing = len(found) - int(found.sum())
    return schema.with_metadata({FOUND: bits, MISSING: str(n_missing).encode()})


def found_of(schema: pa.Schema, n_keys: int) -> np.ndarray:
    """Return the note of a schema: bool[n_keys]. Raises `KeyError` for a schema without."""
    bits = np.frombuffer(base64.b64decode(schema.metadata[FOUND]), np.uint8)
    return np.unpackbits(bits, count=n_keys).astype(bool)


def missing_of(schema: pa.Schema) -> int | None:
    """Return how many keys were not found; None for an answer that is no look-up's."""
    note = (schema.metadata or {}).get(MISSING)
    return None if note is None else int(note)


def members(statement: Statement, schema: pa.Schema) -> dict[str, Any]:
    """Return what a JSON answer says beside its rows: of a look-up ``found`` and ``missing``, else nothing."""
    if statement.lookup is None:
        return {}
    keys = statement.lookup.keys
    found = found_of(schema, len(keys))
    return {"found": found.tolist(), "missing": [_sent(keys[each]) for each in np.flatnonzero(~found).tolist()]}


def _sent(value: Any) -> Any:
    """Return a key as it was sent: numbers with a fraction were read digit by digit."""
    if isinstance(value, Decimal):
        near = float(value)
        return near if Decimal(repr(near)) == value else str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_sent(each) for each in value]
    return value
