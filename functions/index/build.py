"""Segments from files: reads their layouts and key columns, and fits the models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from catalog.indexes import IndexEntry
from functions.index.columns import column_names
from functions.index.file_keys import FileKeys
from functions.index.keyspace import KeySpace
from functions.index.ordinals import check_type
from functions.index.read_keys import Source, read_keys
from functions.index.segment import Segment
from functions.index.stored import model_bytes
from storage.errors import ConflictError, CorruptError, FirnlineError, InvalidError, NotFoundError, UnsupportedError
from storage.stores import Stores
from storage.tables.slices import FileLayout, pack, read_layouts, unpack
from storage.tables.snapshot import Snapshot

__all__ = ["GONE", "REPLACED", "Built", "build"]

CONCURRENT_FILES = 8
LAYOUTS_AT_ONCE = 256
GONE, REPLACED = "it is gone", "it was replaced meanwhile"
"""Why a file is left out that may be there, or the same again, the next time."""
_EPSILON = 32
_FILTER_BITS = 8
_BITS_MAX = 16


@dataclass(frozen=True)
class Built:
    """A segment, None if no file can be covered; and why files are not, by their number in the snapshot."""

    segment: Segment | None
    skipped: Mapping[int, str]


async def build(
    stores: Stores,
    snapshot: Snapshot,
    files: Sequence[int],
    index: IndexEntry,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Built:
    """Index some files of a snapshot.

    A file that cannot be covered is left out and told: of another format than Parquet, without the column, damaged,
    replaced or gone meanwhile; for a learned index also one that is not sorted by the key.

    Parameters
    ----------
    files : their numbers in the snapshot
    progress : is told (files done, files in all)

    Raises
    ------
    InvalidError : the snapshot lacks a column of the index, or has it in another type; an option's value is wrong
    UnsupportedError : the column's type cannot be a key; names those that can
    """
    source = Source(snapshot, _names(snapshot, index))
    epsilon = _option(index, "epsilon", 1, 1 << 20)
    filter_bits = _option(index, "filter_bits", 0, _BITS_MAX)
    skipped: dict[int, str] = {}
    layouts = await _layouts(stores, snapshot, files, skipped)
    keys: dict[int, FileKeys] = {}
    n_done = len(files) - len(layouts)
    gate = asyncio.Semaphore(CONCURRENT_FILES)

    async def one(file: int, layout: FileLayout) -> None:
        nonlocal n_done
        async with gate:
            found = await _keys_of(stores, source, file, layout)
        if isinstance(found, str):
            skipped[file] = found
        elif index.kind == "learned" and not found.is_sorted:
            skipped[file] = "it is not sorted by the key"
        else:
            keys[file] = found if index.kind == "learned" else found.without_order()
        n_done += 1
        if progress is not None:
            progress(n_done, len(files))

    tasks = [asyncio.create_task(one(file, layout)) for file, layout in layouts.items()]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    covered = [file for file in layouts if file in keys]
    if not covered:
        return Built(None, skipped)
    bare = _bare(snapshot, index, covered, [layouts[file] for file in covered])
    segment = await asyncio.to_thread(_fitted, bare, [keys[file] for file in covered], epsilon, filter_bits)
    return Built(segment, skipped)


def _names(snapshot: Snapshot, index: IndexEntry) -> tuple[str, ...]:
    """Return what the snapshot calls the columns of the index. Raises `InvalidError`, `UnsupportedError`."""
    schema = snapshot.schema
    # Never by the name alone: another column may have it by now.
    names = column_names(index.columns, schema)
    if isinstance(names, str):
        raise InvalidError(f"{names}; drop the index and create it anew", index=index.name)
    for name in names:
        if name in snapshot.partition_columns or name in snapshot.files.partitions:
            raise InvalidError(
                "the table is partitioned by this column, so partition pruning finds its files; leave it out",
                column=name,
            )
        check_type(name, schema.field(name).type)
    return names


def _option(index: IndexEntry, name: str, least: int, most: int) -> int | None:
    text = index.options.get(name)
    if text is None:
        return None
    value = int(text) if text.strip().isdecimal() and len(text) < 10 else -1
    if not least <= value <= most:
        raise InvalidError(f"an index's {name} is a number from {least} to {most}", **{name: text})
    return value


async def _layouts(
    stores: Stores, snapshot: Snapshot, files: Sequence[int], skipped: dict[int, str]
) -> dict[int, FileLayout]:
    """Return the layouts of those files that have one, in the order of ``files``; tell ``skipped`` of the others."""
    found: dict[int, FileLayout] = {}
    parquet = []
    for file in files:
        other = snapshot.files.formats.get(file)
        if other is None:
            parquet.append(file)
        else:
            skipped[file] = f"it is in {other.upper() if other == 'orc' else other.capitalize()}"
    for start in range(0, len(parquet), LAYOUTS_AT_ONCE):
        some = parquet[start : start + LAYOUTS_AT_ONCE]
        for file, layout in zip(some, await _some_layouts(stores, snapshot, some), strict=True):
            if isinstance(layout, str):
                skipped[file] = layout
            else:
                found[file] = layout
    return found


async def _some_layouts(stores: Stores, snapshot: Snapshot, files: Sequence[int]) -> list[FileLayout | str]:
    wanted = [(snapshot.files.paths[file], int(snapshot.files.sizes[file]), "") for file in files]
    try:
        return await read_layouts(stores, wanted)
    except (CorruptError, NotFoundError) as error:
        if len(files) == 1:
            return [_reason(error)]
    # One file of these is damaged or gone: halves find it.
    middle = len(files) // 2
    return [
        *await _some_layouts(stores, snapshot, files[:middle]),
        *await _some_layouts(stores, snapshot, files[middle:]),
    ]


def _reason(error: FirnlineError) -> str:
    if isinstance(error, UnsupportedError):
        return error.message
    if isinstance(error, NotFoundError):
        return GONE
    return f"it is damaged: {error.message}" if isinstance(error, CorruptError) else REPLACED


async def _keys_of(stores: Stores, source: Source, file: int, layout: FileLayout) -> FileKeys | str:
    try:
        return await read_keys(stores, source, file, layout)
    except (CorruptError, NotFoundError, ConflictError, UnsupportedError) as error:
        return _reason(error)


def _bare(snapshot: Snapshot, index: IndexEntry, files: Sequence[int], layouts: Sequence[FileLayout]) -> Segment:
    """Return the segment of these files without a model."""
    return Segment(
        kind=index.kind,
        types=tuple(column.type for column in index.columns),
        paths=[snapshot.files.paths[file] for file in files],
        sizes=np.asarray(snapshot.files.sizes, np.int64)[list(files)],
        etags=[layout.etag for layout in layouts],
        layouts=layouts,
        n_keys=0,
        n_bytes=0,
        error=0,
    )


def _fitted(bare: Segment, keys: Sequence[FileKeys], epsilon: int | None, filter_bits: int | None) -> Segment:
    from functions.index import learned, locator

    segment = replace(bare, n_keys=sum(file.n_keys for file in keys))
    if segment.n_keys:
        space = KeySpace.fit([part.columns for file in keys for part in file.parts])
        if bare.kind == "learned":
            bits = _FILTER_BITS if filter_bits is None else filter_bits
            model = learned.fit(keys, space, epsilon=epsilon or _EPSILON, filter_bits=bits)
            segment = replace(segment, space=space, model=model, error=model.error)
        else:
            segment = replace(segment, space=space, model=locator.fit(keys, filter_bits=filter_bits))
    return replace(segment, n_bytes=model_bytes(segment) + unpack(pack(bare.layouts)).n_bytes)
