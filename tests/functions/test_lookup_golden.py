"""Tables that other engines wrote, looked up by values of each of their columns: the rows that a scan has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from catalog.indexes import IndexEntry
from functions.index.build import build
from functions.index.columns import index_columns
from functions.index.models import Coverage, CoveredBy
from functions.live_rows import live_rows
from functions.lookup import Pinned, found_schema, lookup
from functions.records import plain
from storage.errors import FirnlineError, InvalidError, UnsupportedError
from storage.stores import Stores
from storage.tables import delta, iceberg
from storage.tables.snapshot import At, Snapshot
from tests.conftest import GOLDEN
from tests.support.delta_read import local_stores as delta_stores
from tests.support.iceberg_read import local_stores

pytestmark = [pytest.mark.anyio, pytest.mark.golden]

FORMATS = ("delta", "iceberg")
NAMES = [(form, path.name) for form in FORMATS for path in sorted((GOLDEN / form).glob("*")) if path.is_dir()]
COLUMNS_MAX, KEYS_MAX, ROWS_MAX = 5, 20, 15_000


async def _snapshot(form: str, name: str, golden: Path) -> tuple[Stores, Snapshot] | None:
    stores = local_stores(str(golden)) if form == "iceberg" else delta_stores()
    try:
        if form == "iceberg":
            return stores, await iceberg.load(stores, f"s3://firnline-testdata/iceberg/{name}", At(), None)
        return stores, await delta.load(stores, f"file://{golden}/delta/{name}/delta", At(), None)
    except FirnlineError:
        return None  # a table that is refused, or that is damaged on purpose


async def _rows(stores: Stores, snapshot: Snapshot, files: np.ndarray) -> pa.Table:
    schema = found_schema(snapshot, snapshot.schema.names)
    batches = [
        pa.RecordBatch.from_arrays(batch.columns, schema=schema)
        for index in np.flatnonzero(files).tolist()
        async for batch in live_rows(stores, snapshot, index)
    ]
    return pa.Table.from_batches(batches, schema)


async def _coverages(stores: Stores, snapshot: Snapshot) -> AsyncIterator[tuple[str, Coverage]]:
    """Yield an index of each column that can have one."""
    for name in snapshot.schema.names[:COLUMNS_MAX]:
        for kind in ("locator", "learned"):
            try:
                columns = index_columns(snapshot, [name])
                entry = IndexEntry("t", "by", kind, columns, 0)
                built = await build(stores, snapshot, range(len(snapshot.files)), entry)
            except (InvalidError, UnsupportedError):
                continue
            if built.segment is None:
                continue
            place = {path: at for at, path in enumerate(snapshot.files.paths)}
            files = np.array([place[path] for path in built.segment.paths])
            covered = np.zeros(len(snapshot.files), dtype=bool)
            covered[files] = True
            yield name, Coverage(entry, (CoveredBy(built.segment, files),), covered, "", (name,))


def _sorted(rows: pa.Table) -> list[Any]:
    return sorted(map(repr, rows.to_pylist()))


@pytest.mark.parametrize(("form", "name"), NAMES)
async def test_a_lookup_finds_what_a_scan_finds(form: str, name: str, golden_dir: Path) -> None:
    loaded = await _snapshot(form, name, golden_dir)
    if loaded is None or not 0 < int(np.maximum(loaded[1].files.n_rows, 0).sum()) <= ROWS_MAX:
        return
    stores, snapshot = loaded
    async for column, coverage in _coverages(stores, snapshot):
        rows = await _rows(stores, snapshot, coverage.covered)
        values = rows.column(column).combine_chunks().unique().drop_null()[:KEYS_MAX]
        if pa.types.is_floating(values.type):
            values = pa.array([each for each in values.to_pylist() if each and each == each], values.type)
        if not len(values):
            continue
        field = plain(snapshot.schema.field(column)).with_nullable(True)
        keys = pa.Table.from_arrays([values], schema=pa.schema([field]))
        wanted = np.ones(len(snapshot.files), dtype=bool)
        for some in (keys, keys.slice(0, 1)):
            found = await lookup(stores, snapshot, coverage, Pinned(some), snapshot.schema.names, wanted)
            assert not found.distrusted
            asked = set(map(repr, some.column(0).to_pylist()))
            mask = [repr(each) in asked for each in rows.column(column).to_pylist()]
            assert _sorted(found.rows) == _sorted(rows.filter(pa.array(mask))), column
