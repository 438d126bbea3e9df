"""Files whose NaN the engine would take for another number.

A Parquet file's statistics leave NaN out. Where they say that all values of a floating-point column are one, the engine
reads the column as that one, NaN and all. Such a column is looked through once, which is cheap since it is so even.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import ConflictError, CorruptError
from storage.stores import Stores
from storage.tables.footers import Footer, FooterCache
from storage.tables.known_nan import without_nan
from storage.tables.slices import Slice, decode, plan_reads, read_layouts

__all__ = ["files_that_hide_nan"]

_CONCURRENT_READS = 32
_FileKey = tuple[str, int, str]


async def files_that_hide_nan(
    stores: Stores, cache: FooterCache, keys: Sequence[_FileKey], footers: Sequence[Footer]
) -> set[_FileKey]:
    """Return which files have a column of one number and NaN; each is looked into once while it is remembered.

    Parameters
    ----------
    keys : location, size and etag of each
    """
    floats = {footer.fingerprint: _floats(footer.schema) for footer in footers}
    constant: dict[_FileKey, list[str]] = {}
    for key, footer in zip(keys, footers, strict=True):
        if floats[footer.fingerprint] and key not in cache.told:
            names = _constant(footer.metadata, floats[footer.fingerprint] - without_nan(footer.metadata))
            if names:
                constant[key] = names
            else:
                cache.tell(key, False)
    gate = asyncio.Semaphore(_CONCURRENT_READS)
    found = await asyncio.gather(*(_has_nan(stores, gate, key, names) for key, names in constant.items()))
    for key, hides in zip(constant, found, strict=True):
        cache.tell(key, hides)
    return {key for key in keys if cache.told.get(key)}


def _floats(schema: pa.Schema) -> frozenset[str]:
    return frozenset(field.name for field in schema if pa.types.is_floating(field.type))


def _constant(metadata: pq.FileMetaData, floats: frozenset[str]) -> list[str]:
    """Return the columns whose values are all one, as far as statistics tell."""
    paths = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    return [path for number, path in enumerate(paths) if path in floats and _is_one(metadata, number)]


def _is_one(metadata: pq.FileMetaData, column: int) -> bool:
    found = None
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(column).statistics
        if statistics is None or not statistics.has_min_max:
            continue
        if statistics.min != statistics.max or found not in (None, statistics.min):
            return False
        found = statistics.min
    return found is not None


async def _has_nan(stores: Stores, gate: asyncio.Semaphore, key: _FileKey, names: Sequence[str]) -> bool:
    """Tell whether one of the columns has NaN; one that cannot be looked through may have."""
    try:
        async with gate:
            [layout] = await read_layouts(stores, [key])
            if isinstance(layout, str):
                return True
            read = plan_reads(layout, [Slice(0, layout.n_rows)], names)
            parts = await stores.get_ranges(key[0], read.ranges, if_match=layout.etag)
        batches = await asyncio.to_thread(decode, layout, read, parts)
    except (ConflictError, CorruptError):
        return True
    columns = (column.drop_null().to_numpy() for _first, batch in batches for column in batch.columns)
    return any(bool(np.isnan(column).any()) for column in columns)
