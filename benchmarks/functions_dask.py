"""Queries of TPC-H as programs of Dask's data frames. Decimals are read as doubles: its engine overflows them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

__all__ = ["PROGRAMS"]


def _read(tables: Mapping[str, str], name: str, columns: list[str]) -> Any:
    import dask.dataframe as dd

    frame = dd.read_parquet(tables[name], columns=columns, split_row_groups=True)
    doubles = [each for each in columns if each in _DECIMALS]
    return frame.astype(dict.fromkeys(doubles, "float64[pyarrow]"))


_DECIMALS = frozenset(("l_quantity", "l_extendedprice", "l_discount", "l_tax"))


def _date(year: int, month: int, day: int) -> Any:
    import pandas as pd

    return pd.Timestamp(dt.date(year, month, day))


def _table(frame: Any) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False)


def _q1(_peer: Any, tables: Mapping[str, str]) -> pa.Table:
    columns = ["l_returnflag", "l_linestatus", "l_quantity", "l_extendedprice", "l_discount", "l_tax", "l_shipdate"]
    rows = _read(tables, "lineitem", columns)
    rows = rows[rows.l_shipdate.astype("datetime64[ns]") <= _date(1998, 9, 2)]
    rows = rows.assign(disc_price=rows.l_extendedprice * (1 - rows.l_discount))
    rows = rows.assign(charge=rows.disc_price * (1 + rows.l_tax))
    found = rows.groupby(["l_returnflag", "l_linestatus"]).agg(
        sum_qty=("l_quantity", "sum"), sum_base_price=("l_extendedprice", "sum"),
        sum_disc_price=("disc_price", "sum"), sum_charge=("charge", "sum"), avg_qty=("l_quantity", "mean"),
        avg_price=("l_extendedprice", "mean"), avg_disc=("l_discount", "mean"), count_order=("l_quantity", "count"),
    )  # fmt: skip
    return _table(found.compute().reset_index().sort_values(["l_returnflag", "l_linestatus"]))


def _q6(_peer: Any, tables: Mapping[str, str]) -> pa.Table:
    rows = _read(tables, "lineitem", ["l_quantity", "l_extendedprice", "l_discount", "l_shipdate"])
    shipped = rows.l_shipdate.astype("datetime64[ns]")
    wanted = (shipped >= _date(1994, 1, 1)) & (shipped < _date(1995, 1, 1))
    wanted &= (rows.l_discount > 0.0499999) & (rows.l_discount < 0.0700001) & (rows.l_quantity < 24)
    rows = rows[wanted]
    return pa.table({"revenue": [float((rows.l_extendedprice * rows.l_discount).sum().compute())]})


def _q12(_peer: Any, tables: Mapping[str, str]) -> pa.Table:
    lines = _read(
        tables, "lineitem", ["l_orderkey", "l_shipmode", "l_shipdate", "l_commitdate", "l_receiptdate"]
    )  # fmt: skip
    received = lines.l_receiptdate.astype("datetime64[ns]")
    wanted = lines.l_shipmode.isin(["MAIL", "SHIP"]) & (lines.l_commitdate < lines.l_receiptdate)
    wanted &= (lines.l_shipdate < lines.l_commitdate) & (received >= _date(1994, 1, 1))
    lines = lines[wanted & (received < _date(1995, 1, 1))][["l_orderkey", "l_shipmode"]]
    orders = _read(tables, "orders", ["o_orderkey", "o_orderpriority"])
    rows = lines.merge(orders, left_on="l_orderkey", right_on="o_orderkey")
    high = rows.o_orderpriority.isin(["1-URGENT", "2-HIGH"]).astype("int64")
    found = rows.assign(high_line_count=high, low_line_count=1 - high).groupby("l_shipmode")
    counts = found[["high_line_count", "low_line_count"]].sum().compute()
    return _table(counts.reset_index().sort_values("l_shipmode"))


PROGRAMS = {1: _q1, 6: _q6, 12: _q12}
