"""The benchmark of the models of keys runs on tiny data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.lookup_options import SMOKE_LOOKUPS

pytest.importorskip("pygm", reason="of the group bench")


def test_every_set_of_keys_is_measured_beside_the_peers(tmp_path: Path) -> None:
    from benchmarks.lookup_kernels import KEYS, measure_kernels

    section = measure_kernels(replace(SMOKE_LOOKUPS, keys=(2_000, 3_000), queries=200, build=tmp_path))
    times, sizes, fences, footers, maps, single = section.tables
    assert [len(table.rows) for table in (times, sizes, maps)] == [2 * len(KEYS), 2 * len(KEYS), 4]
    assert len(fences.rows) == 4 * len(KEYS)
    assert len(footers.rows) == 2
    assert all(len(row) == len(table.header) for table in section.tables for row in table.rows)
    assert all(cell != "–" for row in times.rows for cell in row)
    assert {row[0] for row in single.rows} >= {"PiecewiseLinear.predict", "FuseMap.find"}
    assert all(goal.measured is not None and not goal.official for goal in section.goals)
