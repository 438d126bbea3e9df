"""A table without rows, or whose files are all pruned, answers every statement with no rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import firnline

STATEMENTS = (
    "SELECT * FROM {t}",
    "SELECT * FROM {t} WHERE x > 50 ORDER BY x",
    "SELECT * FROM {t} WHERE x > 50 ORDER BY x LIMIT 2",
    "SELECT x, count(*) FROM {t} WHERE x > 50 GROUP BY x ORDER BY 1",
    "SELECT * FROM {t} a JOIN {t} b ON a.x = b.x WHERE a.x > 50 ORDER BY 1",
    "SELECT x, row_number() OVER (ORDER BY x) FROM {t} WHERE x > 50",
)


@pytest.mark.parametrize("rows", [[], [1, 2]])
def test_nothing_is_found_in_nothing(tmp_path: Path, rows: list[int]) -> None:
    table = pa.table({"x": pa.array(rows, pa.int64()), "s": pa.array([str(each) for each in rows], pa.string())})
    for name in ("1", "2"):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    with firnline.connect(tmp_path) as lake:
        for statement in STATEMENTS[bool(rows) :]:
            assert lake.sql(statement.format(t=f"parquet('{tmp_path}/*.parquet')")).num_rows == 0
        found = lake.sql(f"SELECT count(*) AS n FROM parquet('{tmp_path}/*.parquet') WHERE x > 50")
        assert found["n"].to_pylist() == [0]
