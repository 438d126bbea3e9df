"""Rows between tasks: Arrow pages, inline where they are few, else blobs with a lifetime, each with its checksum.

A statement's pages lie under ``<lake>/_firnline/results/<expiry in ms, 13 digits>-<statement id>/``, so that a sweep
knows what is over from the name alone (`sweep_results`); a coordinator deletes its own when it ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pyarrow as pa

from functions.tasks import Page
from storage.clock import Clock
from storage.stores import Stores

__all__ = ["delete_results", "read_pages", "results_prefix", "sweep_results", "write_pages"]


def results_prefix(lake: str, statement_id: str, expires_ms: int) -> str:
    """Return the location prefix of a statement's pages."""
    raise NotImplementedError


async def write_pages(
    stores: Stores, prefix: str, name: str, buckets: Sequence[Sequence[pa.RecordBatch]], schema: pa.Schema,
    *, inline_bytes_max: int,
) -> list[Page]:  # fmt: skip
    """Return the rows of each bucket as pages: all inline if they are few together, else blobs, many at once."""
    raise NotImplementedError


def read_pages(stores: Stores, pages: Sequence[Page], *, concurrency: int = 8) -> AsyncIterator[pa.RecordBatch]:
    """Yield the rows of pages in their order. Raises `CorruptError` naming a page that is not what its checksum says,
    `NotFoundError` for one whose lifetime is over."""
    raise NotImplementedError


async def delete_results(stores: Stores, prefix: str) -> int:
    """Delete a statement's pages; return how many."""
    raise NotImplementedError


async def sweep_results(stores: Stores, lake: str, clock: Clock) -> int:
    """Delete the pages of statements whose lifetime is over; return how many."""
    raise NotImplementedError
