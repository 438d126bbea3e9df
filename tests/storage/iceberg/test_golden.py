"""Tables that Spark, Trino, Impala, DuckDB, PyIceberg and others wrote, against the rows that readers agree on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from storage.tables.iceberg import load
from storage.tables.snapshot import At
from tests.conftest import GOLDEN
from tests.support.delta_read import multiset
from tests.support.iceberg_read import local_stores, read_table

pytestmark = [pytest.mark.anyio, pytest.mark.golden]
_CASES = GOLDEN / "iceberg" / "cases.json"
CASES = json.loads(_CASES.read_text()) if _CASES.exists() else []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
async def test_it_reads_the_rows_that_independent_readers_agree_on(case: dict[str, Any], golden_dir: Path) -> None:
    stores = local_stores(str(golden_dir))
    location = f"s3://firnline-testdata/iceberg/{case['id']}"
    snapshot = await load(stores, location, At(), None)
    rows = await read_table(stores, snapshot)
    expected = pq.read_table(golden_dir / "iceberg" / case["id"] / "consensus.parquet")
    assert sorted(rows.column_names) == sorted(expected.column_names)
    assert multiset(rows) == multiset(expected)
    await _assert_bounds_hold(stores, snapshot)
    assert await load(stores, location, At(), snapshot) is snapshot


async def _assert_bounds_hold(stores: Any, snapshot: Any) -> None:
    """Every file's live rows lie within its statistics."""
    for index in range(len(snapshot.files)):
        alone = await read_table(stores, _only(snapshot, index))
        for name in snapshot.schema.names:
            stats = snapshot.files.stats(name)
            if stats is None:
                continue
            values = [value for value in alone.column(name).to_pylist() if value is not None]
            low, high = stats.minimum[index].as_py(), stats.maximum[index].as_py()
            assert low is None or all(low <= value for value in values), name
            assert high is None or all(value <= high for value in values), name
            nulls = stats.null_count[index].as_py()
            assert nulls is None or alone.column(name).null_count <= nulls, name


def _only(snapshot: Any, index: int) -> Any:
    files = snapshot.files
    alone = replace(
        files,
        paths=[files.paths[index]],
        n_rows=files.n_rows[index : index + 1],
        partitions={name: values.slice(index, 1) for name, values in files.partitions.items()},
        absent={name: (v.slice(index, 1), k[index : index + 1]) for name, (v, k) in files.absent.items()},
        deletes={0: files.deletes[index]} if index in files.deletes else {},
        formats={0: files.formats[index]} if index in files.formats else {},
    )
    return replace(snapshot, files=alone)
