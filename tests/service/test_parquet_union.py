"""Files of one Parquet table that different writers wrote."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import firnline
from storage.errors import UnsupportedError

NOON = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)


def test_a_categorical_column_unites_with_plain_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"s": ["a", "b"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"s": pa.array(["b", None]).dictionary_encode()}), tmp_path / "2.parquet")
    pq.write_table(pa.table({"s": pa.array(["b", "c"], pa.large_string()), "x": [1, 2]}), tmp_path / "3.parquet")
    with firnline.connect(tmp_path) as lake:
        found = lake.sql(f"SELECT s, x FROM parquet('{tmp_path}/*.parquet') ORDER BY s, x")
        assert found["s"].to_pylist() == ["a", "b", "b", "b", "c", None]
        found = lake.sql(f"SELECT count(*) AS n FROM parquet('{tmp_path}/*.parquet') WHERE s = 'b'")
        assert found["n"].to_pylist() == [3]


def test_instants_of_several_zones_unite(tmp_path: Path) -> None:
    for name, zone in enumerate(("Asia/Tokyo", "America/New_York", "UTC")):
        later = NOON + dt.timedelta(hours=name)
        pq.write_table(pa.table({"t": pa.array([later], pa.timestamp("us", zone))}), tmp_path / f"{name}.parquet")
    with firnline.connect(tmp_path) as lake:
        found = lake.sql(f"SELECT t FROM parquet('{tmp_path}/*.parquet') WHERE t > $1 ORDER BY t", [NOON])
    assert found["t"].to_pylist() == [NOON + dt.timedelta(hours=1), NOON + dt.timedelta(hours=2)]


def test_an_instant_and_a_wall_clock_do_not_unite(tmp_path: Path) -> None:
    pq.write_table(pa.table({"t": pa.array([NOON], pa.timestamp("us", "UTC"))}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"t": pa.array([1], pa.timestamp("us"))}), tmp_path / "2.parquet")
    with firnline.connect(tmp_path) as lake, pytest.raises(UnsupportedError, match=r"2\.parquet"):
        lake.sql(f"SELECT t FROM parquet('{tmp_path}/*.parquet')")


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_times_of_a_coarser_file_are_compared_to_the_microsecond(tmp_path: Path, zone: str | None) -> None:
    pq.write_table(pa.table({"t": pa.array([0, 1, -1], pa.timestamp("ms", zone))}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"t": pa.array([1], pa.timestamp("us", zone))}), tmp_path / "2.parquet")
    late = "TIMESTAMPTZ '1970-01-01T00:00:00.000001Z'" if zone else "TIMESTAMP '1970-01-01T00:00:00.000001'"
    with firnline.connect(tmp_path / "lake") as lake:
        for condition, expected in (("= {}", [1]), ("< {}", [-1000, 0]), (">= {}", [1, 1000]), ("IN ({})", [1])):
            found = lake.sql(
                f"SELECT t FROM parquet('{tmp_path}/*.parquet') WHERE t {condition.format(late)} ORDER BY t"
            )
            assert found["t"].cast(pa.timestamp("us", zone)).cast(pa.int64()).to_pylist() == expected, condition
