"""What the demo asks: one chapter for each thing worth seeing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Chapter", "chapters", "registrations"]


@dataclass(frozen=True, slots=True)
class Chapter:
    """A statement and why it is worth asking."""

    title: str
    sql: str


def registrations(data: Path) -> list[str]:
    """Return the statements that put the tables into the catalog."""
    places = {
        "lineitem": ("parquet", data / "parquet" / "lineitem"),
        "nation": ("parquet", data / "parquet" / "nation.parquet"),
        "orders": ("delta", data / "delta" / "orders"),
        "customer": ("iceberg", data / "iceberg" / "customer"),
    }
    return [
        f"CREATE EXTERNAL TABLE IF NOT EXISTS {name} STORED AS {form} LOCATION '{_quoted(place)}'"
        for name, (form, place) in places.items()
    ]


def chapters(data: Path) -> list[Chapter]:
    """Return the demo's statements in order."""
    return [
        Chapter("The catalog: three open formats, one lake", "SHOW TABLES"),
        Chapter("A table function reads files that no catalog knows", _FUNCTION.format(place=_quoted(_short(data)))),
        Chapter("One join across Parquet (lineitem, nation), Delta (orders) and Iceberg (customer)", _JOIN),
        Chapter("Pruning: one year of a table that is partitioned by year; see the files in the receipt", _PRUNED),
        Chapter("Time travel: Delta by version, Iceberg by tag", _TRAVEL),
        Chapter("Windows and QUALIFY: the largest order of each segment", _WINDOW),
        Chapter("EXPLAIN names each table's version, and the files that are left after pruning", _EXPLAIN),
    ]


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _short(path: Path) -> Path:
    """Return the path as seen from the working folder, if it lies there."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


_FUNCTION = """\
SELECT r_name AS region, count(*) AS nations
FROM parquet('{place}/parquet/nation.parquet')
JOIN parquet('{place}/parquet/region.parquet') ON n_regionkey = r_regionkey
GROUP BY region ORDER BY region"""

_JOIN = """\
SELECT n_name AS nation, count(DISTINCT o_orderkey) AS orders,
       round(sum(l_extendedprice * (1 - l_discount)), 2) AS revenue
FROM lineitem
JOIN orders   ON l_orderkey = o_orderkey
JOIN customer ON o_custkey = c_custkey
JOIN nation   ON c_nationkey = n_nationkey
WHERE o_orderdate >= DATE '1995-01-01' AND o_orderdate < DATE '1996-01-01'
GROUP BY nation ORDER BY revenue DESC LIMIT 5"""

_PRUNED = """\
SELECT o_orderpriority AS priority, count(*) AS orders, round(avg(o_totalprice), 2) AS mean_price
FROM orders WHERE o_orderyear = 1996
GROUP BY priority ORDER BY priority"""

_TRAVEL = """\
          SELECT 'orders before 1998' AS what, count(*) AS n FROM orders FOR VERSION AS OF 0
UNION ALL SELECT 'orders with 1998', count(*) FROM orders FOR VERSION AS OF 1
UNION ALL SELECT 'orders without the customer who asked to be forgotten', count(*) FROM orders
UNION ALL SELECT 'customers of the first load', count(*) FROM customer FOR VERSION AS OF 'first_load'
UNION ALL SELECT 'customers now', count(*) FROM customer"""

_WINDOW = """\
SELECT c_mktsegment AS segment, c_name AS customer, o_totalprice AS price, o_orderdate AS day
FROM orders JOIN customer ON o_custkey = c_custkey
QUALIFY row_number() OVER (PARTITION BY segment ORDER BY o_totalprice DESC) = 1
ORDER BY price DESC"""

_EXPLAIN = """\
EXPLAIN SELECT count(*) FROM orders WHERE o_orderyear = 1996 AND o_totalprice > 400000"""
