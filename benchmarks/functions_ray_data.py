"""Queries of TPC-H as programs of Ray Data: Arrow over each block, then its own group-by over what is left."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["PROGRAMS"]


def _double(rows: pa.Table, name: str) -> Any:
    return pc.cast(rows[name], pa.float64())


def _partial_q1(rows: pa.Table) -> pa.Table:
    for name in ("l_returnflag", "l_linestatus"):  # view types, which Arrow does not filter
        rows = rows.set_column(rows.column_names.index(name), name, pc.cast(rows[name], pa.string()))
    rows = rows.filter(pc.less_equal(rows["l_shipdate"], dt.date(1998, 9, 2)))
    price, discount = _double(rows, "l_extendedprice"), _double(rows, "l_discount")
    disc_price = pc.multiply(price, pc.subtract(1.0, discount))
    values = pa.table({
        "l_returnflag": rows["l_returnflag"], "l_linestatus": rows["l_linestatus"],
        "qty": _double(rows, "l_quantity"), "price": price, "disc_price": disc_price,
        "charge": pc.multiply(disc_price, pc.add(1.0, _double(rows, "l_tax"))), "disc": discount,
    })  # fmt: skip
    names = ["qty", "price", "disc_price", "charge", "disc"]
    grouped = values.group_by(["l_returnflag", "l_linestatus"])
    return grouped.aggregate([*((name, "sum") for name in names), ("qty", "count")])


def _q1(_peer: Any, tables: Mapping[str, str]) -> pa.Table:
    import ray.data
    from ray.data.aggregate import Sum

    columns = ["l_returnflag", "l_linestatus", "l_quantity", "l_extendedprice", "l_discount", "l_tax", "l_shipdate"]
    rows = ray.data.read_parquet(tables["lineitem"], columns=columns)
    partial = rows.map_batches(_partial_q1, batch_format="pyarrow", batch_size=None)
    names = ["qty_sum", "price_sum", "disc_price_sum", "charge_sum", "disc_sum", "qty_count"]
    grouped = partial.groupby(["l_returnflag", "l_linestatus"], num_partitions=2)
    done = grouped.aggregate(*(Sum(name) for name in names)).to_pandas()
    done = done.sort_values(["l_returnflag", "l_linestatus"]).reset_index(drop=True)
    n = done["sum(qty_count)"]
    return pa.table({
        "l_returnflag": done.l_returnflag, "l_linestatus": done.l_linestatus, "sum_qty": done["sum(qty_sum)"],
        "sum_base_price": done["sum(price_sum)"], "sum_disc_price": done["sum(disc_price_sum)"],
        "sum_charge": done["sum(charge_sum)"], "avg_qty": done["sum(qty_sum)"] / n,
        "avg_price": done["sum(price_sum)"] / n, "avg_disc": done["sum(disc_sum)"] / n, "count_order": n,
    })  # fmt: skip


def _partial_q6(rows: pa.Table) -> pa.Table:
    discount, quantity, shipped = _double(rows, "l_discount"), _double(rows, "l_quantity"), rows["l_shipdate"]
    wanted = pc.and_(pc.greater_equal(shipped, dt.date(1994, 1, 1)), pc.less(shipped, dt.date(1995, 1, 1)))
    wanted = pc.and_(wanted, pc.and_(pc.greater(discount, 0.0499999), pc.less(discount, 0.0700001)))
    wanted = pc.and_(wanted, pc.less(quantity, 24.0))
    revenue = pc.sum(pc.multiply(_double(rows, "l_extendedprice"), discount).filter(wanted)).as_py() or 0.0
    return pa.table({"revenue": [revenue]})


def _q6(_peer: Any, tables: Mapping[str, str]) -> pa.Table:
    import ray.data

    columns = ["l_quantity", "l_extendedprice", "l_discount", "l_shipdate"]
    rows = ray.data.read_parquet(tables["lineitem"], columns=columns)
    partial = rows.map_batches(_partial_q6, batch_format="pyarrow", batch_size=None)
    return pa.table({"revenue": [float(partial.sum("revenue"))]})


PROGRAMS = {1: _q1, 6: _q6}
