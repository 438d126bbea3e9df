"""Rows by their keys: models → row ranges → ranged reads with the layout already known → decode → compare the keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from functions.index.models import Coverage
from storage.stores import Stores

__all__ = ["Found", "KeyRange", "Pinned", "lookup"]


@dataclass(frozen=True)
class Pinned:
    """Keys that are asked for: columns of the key as the table names them, in the index's order and types, distinct."""

    keys: pa.Table


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Values of the first key column that are asked for, both bounds included; None: no bound."""

    column: str
    low: Any | None
    high: Any | None


@dataclass(frozen=True)
class Found:
    """Live rows of the covered files whose key is among those asked for, deletes applied.

    rows : the columns asked for and the key's, in the snapshot's order and types
    n_blocks, n_requests, n_bytes : that were read
    distrusted : numbers of files of the snapshot that are not what was indexed; their rows are not in ``rows``
    """

    rows: pa.Table
    n_blocks: int
    n_requests: int
    n_bytes: int
    distrusted: tuple[int, ...] = ()


async def lookup(
    stores: Stores, snapshot: object, coverage: Coverage, asked: Pinned | KeyRange, columns: Sequence[str],
    wanted: np.ndarray,
) -> Found:  # fmt: skip
    """Return the rows of those files that ``coverage`` covers and ``wanted`` (bool[n_files]) names."""
    raise NotImplementedError
