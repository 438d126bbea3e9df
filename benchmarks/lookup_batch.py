"""Many keys in one call over an S3 API: keys a second and requests, by key and as ``IN``, beside the other engines."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from benchmarks.lookup_data import FORMATS, WideTables, row_ids, store, tokens, wide_tables
from benchmarks.lookup_options import LookupOptions
from benchmarks.lookup_store import OWN, PEERS, Cost, _add_counts, _opened
from benchmarks.measure import median_of, ratio
from benchmarks.peer_process import PeerError, peer_process
from benchmarks.peers import S3Access
from benchmarks.progress import progress
from benchmarks.remote import _counts, _reset
from benchmarks.report import Section, Table

__all__ = ["measure_batch"]

REPEATS = 2
COLUMNS = {"id": "sorted key", "token": "unsorted key"}


def measure_batch(options: LookupOptions) -> Section:
    """Return what a call of ``options.batch`` keys takes; a tenth of them are in no row."""
    tables = wide_tables(options)
    delay_ms = options.batch_delay_ms
    found: dict[tuple[str, str, str], Cost] = {}
    with store(tables, delay_ms) as endpoint:
        for form in FORMATS:
            for engine in (f"{OWN}, by key", f"{OWN}, IN", *PEERS[form]):
                progress("batch", f"{form}: {engine}")
                costs = _measured(options, tables, endpoint, form, engine)
                found |= {(form, column, engine): cost for column, cost in costs.items()}
    return Section(
        "batch",
        f"{options.batch:,} keys in one call, {delay_ms} ms added to every request",
        [
            f"The median of {REPEATS} calls by Firnline, each with other keys, and one of the others, which have found "
            "ten keys before; all 16 columns; nine of ten keys are there. The others are asked with `IN (…)`. "
            "DuckDB keeps what it has read of files, up to its memory limit: where it fetches 1 MB, it had the rest."
        ],
        [
            Table(
                ["", "s", "keys/s", "requests", "MB", "CPU s", f"s ÷ {OWN}, by key"],
                [
                    _row(engine, cost, found[form, column, f"{OWN}, by key"], options.batch)
                    for (at, name, engine), cost in found.items()
                    if (at, name) == (form, column)
                ],
                f"{form}, {COLUMNS[column]}",
            )
            for form in FORMATS
            for column in COLUMNS
        ],
        notes=[f"{engine}, {form}, {column}: {c.fault}" for (form, column, engine), c in found.items() if c.fault],
    )


def _measured(options: LookupOptions, tables: WideTables, endpoint: str, form: str, engine: str) -> Mapping[str, Cost]:
    program = {f"{OWN}, by key": "lake-keys", f"{OWN}, IN": "lake"}.get(engine, engine)
    found = {column: Cost() for column in COLUMNS}
    with peer_process(program) as peer:
        try:
            peer.open(_opened(tables, form, OWN if engine.startswith(OWN) else engine), S3Access(endpoint))
        except PeerError as error:
            return {column: Cost(fault=str(error)[:300]) for column in COLUMNS}
        for number, (column, cost) in enumerate(found.items()):
            try:
                if engine.startswith(OWN) or number == 0:  # a few keys of the unsorted column cost the others a scan
                    few = _keys(options, tables, column, 0)[:10]
                    peer.run(_asked(tables, form, engine, column, few), timeout_s=60)
                _reset(endpoint)
                for turn in range(REPEATS if engine.startswith(OWN) else 1):
                    keys = _keys(options, tables, column, turn + 1)
                    run = peer.run(_asked(tables, form, engine, column, keys), timeout_s=60)
                    if run.rows != len(set(keys)) - options.batch // 10:
                        fault = RuntimeError if engine.startswith(OWN) else PeerError
                        raise fault(f"found {run.rows} rows of {len(keys)} keys")
                    cost.walls_s.append(run.wall_s)
                    cost.cpu_s.append(run.cpu_s)
                _add_counts(cost, _counts(endpoint))
            except PeerError as error:
                cost.fault = str(error)[:300]
                break
    return found


def _keys(options: LookupOptions, tables: WideTables, column: str, turn: int) -> list[int | str]:
    rng = np.random.default_rng(100 + turn)
    numbers = rng.choice(tables.n_rows, options.batch, replace=False)
    n_absent = options.batch // 10
    if column == "id":
        ids = row_ids(tables)[numbers]
        ids[:n_absent] += 1
        return [int(each) for each in ids]
    there = tokens(numbers)
    return [*(token[::-1] for token in there[:n_absent]), *there[n_absent:]]


def _asked(tables: WideTables, form: str, engine: str, column: str, keys: list[int | str]) -> str:
    name = f"wide_{form}" if engine.startswith(OWN) else "t"
    if engine == f"{OWN}, by key":
        return json.dumps({"table": name, "by": [column], "keys": keys})
    listed = ", ".join(f"'{key}'" if isinstance(key, str) else str(key) for key in keys)
    return f"SELECT * FROM {name} WHERE {column} IN ({listed})"


def _row(engine: str, cost: Cost, own: Cost, n_keys: int) -> list[str]:
    if not cost.walls_s:
        return [engine, *["–"] * 6]
    wall_s = median_of(cost.walls_s)
    return [
        engine, f"{wall_s:.2f}", f"{n_keys / wall_s:,.0f}", f"{cost.requests / cost.n:,.0f}",
        f"{cost.n_bytes / cost.n / 1e6:,.0f}", f"{median_of(cost.cpu_s):.2f}",
        ratio(wall_s, median_of(own.walls_s) if own.walls_s else float("nan")),
    ]  # fmt: skip
