"""Keys in a table's un-folded tail, the updatable index under other sorted maps, and the sort of compaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datafusion import SessionContext
from sortedcontainers import SortedDict

from benchmarks.lookup_options import LookupOptions
from benchmarks.measure import median_of
from benchmarks.progress import progress
from benchmarks.report import Section, Table
from benchmarks.write_bulk import eight_columns
from catalog.tables import Managed, TableEntry
from functions import tail_index
from functions.kernels.alex import Alex
from functions.kernels.sort import argsort
from functions.keys import key_hashes
from functions.tail import TableTail
from functions.tail_rows import TailRows
from storage.log import LogRecord, Position, Record, RecordKind
from storage.tables.snapshot import FIELD_ID
from storage.tables.write import TableSpec

__all__ = ["measure_tail"]

_RECORD_ROWS = 10_000
_BATCH, _BUILD_ROWS = 1_000, 4_096
_REPEATS = 5


def measure_tail(options: LookupOptions) -> Section:
    """Return rates of maps, microseconds of look-ups in tails, and nanoseconds of sorts."""
    Alex(np.arange(9, dtype=np.uint64), np.arange(9)).find(np.arange(9, dtype=np.uint64))
    Alex().insert(np.arange(9, dtype=np.uint64), np.arange(9))
    for kind in (np.int64, np.float64):
        argsort(np.arange(9, dtype=kind))
    progress("tail", "tails and their indexes")
    ends, levels = _tails(options)
    progress("tail", "maps and sorts")
    sizes = (max(options.keys[0] // 10, 1_000), *options.keys[:2])
    return Section(
        "tail",
        "Keys in the tail",
        [
            "Maps: keys are added in batches of 1,000 and looked up in random order; ALEX by batch, the others, which "
            "have no batches, one by one; nanoseconds a key, with the Python call that each takes.",
            f"Tails: eight columns, keyed, from records of {_RECORD_ROWS:,} rows; medians of {_REPEATS}, microseconds.",
            "Sorts: the order of the keys, nanoseconds a key, the best of three, of more than a million keys of two.",
        ],
        [
            Table(["map, keys", "add", "look up", "look up ÷ ALEX"], _maps(max(options.tails)), "Sorted maps"),
            Table(
                [
                    "un-folded rows", "find 1 key", "a miss", f"find {options.batch:,} keys", "the first find",
                    "the first after 1,000 rows more", "DataFusion, 1 key", "pyarrow filter, 1 key",
                    f"pyarrow filter, {options.batch:,} keys",
                ],
                ends,
                "Look-ups in a tail, and a filter over its rows",
            ),
            Table(
                ["what, rows", "add 1,000", "build up, ns a row", "find 1", f"find {options.batch:,}"],
                levels,
                "Indexes of the tail, microseconds: sorted levels (used), a sorted array for each run, ALEX",
            ),
            Table(
                ["keys", "learned sort", "numpy stable", "numpy quick", "Arrow", "best other ÷ learned"],
                [row for n in sizes for row in _sorts(n)],
                "Argsort",
            ),
        ],
        notes=[
            "The first find makes the index, which costs what sorting the hashes does; it is brought forward after.",
            "Neither ALEX nor the learned sort is used by the product: see docs/design/014-learned-sort-and-alex.md.",
        ],
    )  # fmt: skip


def _ns(seconds: float, n: int) -> str:
    return f"{seconds / n * 1e9:,.0f}"


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f}" if seconds >= 1e-5 else f"{seconds * 1e6:.1f}"


def _timed(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _median(act: Callable[[], object], times: int = 1) -> float:
    """Return seconds of one call, the median of runs of ``times`` calls."""

    def run() -> None:
        for _ in range(times):
            act()

    run()
    return median_of([_timed(run) for _ in range(_REPEATS)]) / times


def _maps(n_max: int) -> list[list[str]]:
    random = np.random.default_rng(1)
    rows = []
    for n in (max(n_max // 10, 1), n_max):
        for shape, keys in {
            "uniform": random.integers(0, 1 << 63, n).astype(np.uint64),
            "growing": np.arange(n, dtype=np.uint64) * np.uint64(7),
            "descending": np.arange(n, 0, -1).astype(np.uint64),
            "lognormal": random.lognormal(20, 2, n).astype(np.uint64),
        }.items():
            asked = random.permutation(keys)
            base = 0.0
            for name, map_ in {"ALEX": _alex, "SortedDict": _sorted_dict, "dict + sort": _dict}.items():
                add, find = map_(keys, asked)
                base = base or find
                rows.append([f"{name}, {n:,} {shape}", _ns(add, n), _ns(find, n), f"{find / base:.1f}×"])
    return rows


def _alex(keys: np.ndarray, asked: np.ndarray) -> tuple[float, float]:
    index, rows = Alex(), np.arange(len(keys))
    parts = [slice(start, start + _BATCH) for start in range(0, len(keys), _BATCH)]
    add = sum(_timed(lambda part=part: index.insert(keys[part], rows[part])) for part in parts)  # type: ignore[misc]
    return add, _timed(lambda: [index.find(asked[part]) for part in parts])


def _sorted_dict(keys: np.ndarray, asked: np.ndarray) -> tuple[float, float]:
    pairs, wanted, held = list(zip(keys.tolist(), range(len(keys)), strict=True)), asked.tolist(), SortedDict()

    def add() -> None:
        for key, row in pairs:
            held[key] = row

    return _timed(add), _timed(lambda: [held[key] for key in wanted])


def _dict(keys: np.ndarray, asked: np.ndarray) -> tuple[float, float]:
    """Add to a dict; a sort at the end, without which there is no order."""
    pairs, wanted = list(zip(keys.tolist(), range(len(keys)), strict=True)), asked.tolist()
    held: dict[int, int] = {}

    def add() -> None:
        for key, row in pairs:
            held[key] = row
        sorted(held)

    return _timed(add), _timed(lambda: [held[key] for key in wanted])


def _tails(options: LookupOptions) -> tuple[list[list[str]], list[list[str]]]:
    ends, levels = [], []
    for n in options.tails:
        random = np.random.default_rng(2)
        ids = random.permutation(n).astype(np.int64) * 2
        entry, rows = _rows_of(ids)
        tail = _tail_of(rows)
        one, miss = _keys([int(ids[n // 2])]), _keys([1])
        many = _keys(random.permutation(np.arange(2 * n))[: options.batch])
        first = _timed(lambda: tail_index.find(tail, ["id"], one))  # noqa: B023
        plain = tail.rows.combine_chunks()
        context = SessionContext()
        context.register_record_batches("tail", [list(tail.batches)])
        sql = f"SELECT * FROM tail WHERE id = {ids[n // 2]}"
        cells = [
            _median(lambda: tail_index.find(tail, ["id"], one), 20),  # noqa: B023
            _median(lambda: tail_index.find(tail, ["id"], miss), 20),  # noqa: B023
            _median(lambda: tail_index.find(tail, ["id"], many)),  # noqa: B023
            first,
            _forward(entry, rows, ids, one),
            _median(lambda: context.sql(sql).collect()),  # noqa: B023
            _median(lambda: plain.filter(pc.equal(plain["id"], one["id"][0]))),  # noqa: B023
            _median(lambda: plain.filter(pc.is_in(plain["id"], many["id"].combine_chunks()))),  # noqa: B023
        ]
        ends.append([f"{n:,}", *map(_us, cells)])
        levels += _indexes(n, rows, key_hashes(many, ["id"]))
    return ends, levels


def _keys(ids: Any) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64())})


def _forward(entry: TableEntry, rows: TailRows, ids: np.ndarray, one: pa.Table) -> float:
    """Return seconds of the first find once 1,000 rows have come, half of them for keys that are there."""
    random, found = np.random.default_rng(3), []
    for number in range(_REPEATS):
        new = np.concatenate([random.choice(ids, _BATCH // 2, replace=False), 3 + 2 * random.permutation(_BATCH // 2)])
        rows = rows.then([_record(new, 1_000_000 + number)], entry)
        tail = _tail_of(rows)
        found.append(_timed(lambda: tail_index.find(tail, ["id"], one)))  # noqa: B023
    return median_of(found)


def _indexes(n: int, rows: TailRows, asked: np.ndarray) -> list[list[str]]:
    """Time what could hold the hashes of the same rows."""
    hashes = np.concatenate([run.hashes for run in rows.runs])
    new = key_hashes(_keys(np.arange(_BATCH) + (1 << 40)), ["id"])
    runs = [np.sort(run.hashes) for run in rows.runs]
    held = [tail_index.level_of(hashes, np.arange(n))]
    index, fresh = Alex(hashes, np.arange(n)), np.arange(n, n + _BATCH)
    one = asked[:1]

    def probe(levels: Sequence[np.ndarray], keys: np.ndarray) -> None:
        for level in levels:
            level.searchsorted(keys)

    def built(add: Callable[[np.ndarray, np.ndarray], object]) -> str:
        """Time the same rows coming bit by bit."""
        parts = [slice(start, start + _BUILD_ROWS) for start in range(0, n, _BUILD_ROWS)]
        ids = np.arange(n)
        return _ns(_timed(lambda: [add(hashes[part], ids[part]) for part in parts]), n)

    grown: list[tuple[tail_index.Level, ...]] = [()]

    def with_part(part: np.ndarray, ids: np.ndarray) -> None:
        grown[0] = tail_index.with_level(grown[0], tail_index.level_of(part, ids))

    cells = {
        "levels": (
            _median(lambda: tail_index.with_level(held, tail_index.level_of(new, fresh))),
            _median(lambda: probe([each for each, _ids in held], one), 20),
            _median(lambda: probe([each for each, _ids in held], np.sort(asked))),
        ),
        "runs": (
            _median(lambda: np.sort(np.concatenate([runs[-1], new]))),
            _median(lambda: probe(runs, one), 20),
            _median(lambda: probe(runs, np.sort(asked))),
        ),
        "ALEX": (
            _timed(lambda: index.insert(new, fresh)),
            _median(lambda: index.find(one), 20),
            _median(lambda: index.find(asked)),
        ),
    }
    building = {"levels": built(with_part), "runs": "–", "ALEX": built(Alex().insert)}
    return [[f"{name}, {n:,}", _us(add), building[name], *map(_us, finds)] for name, (add, *finds) in cells.items()]


def _rows_of(ids: np.ndarray) -> tuple[TableEntry, TailRows]:
    schema = pa.schema(
        [each.with_metadata({FIELD_ID: str(number)}) for number, each in enumerate(eight_columns(1).schema, 1)]
    )
    spec = TableSpec("t", schema, 0, len(schema), ("id",))
    entry = TableEntry("default", "t", "t", "delta", "file:///t", 0, managed=Managed(spec, {0: schema}))
    rows = TailRows.empty(entry, schema)
    for number, start in enumerate(range(0, len(ids), _RECORD_ROWS)):
        rows = rows.then([_record(ids[start : start + _RECORD_ROWS], number)], entry)
    return entry, rows


def _record(ids: np.ndarray, number: int) -> LogRecord:
    rows = eight_columns(len(ids), number)
    rows = rows.set_column(0, "id", pa.array(ids, pa.int64()))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return LogRecord(Position(1, number), Record("t", 0, RecordKind.UPSERT, sink.getvalue().to_pybytes()))


def _tail_of(rows: TailRows) -> TableTail:
    return TableTail(rows.schema, (1, 1 << 40), 0, rows.batches, rows.keys, rows.state, rows.n_bytes, rows)


def _sorts(n: int) -> list[list[str]]:
    random = np.random.default_rng(4)
    shapes = {
        "uniform": random.integers(0, 1 << 62, n),
        "lognormal": random.lognormal(0, 2, n),
        "few values": random.integers(0, 100, n),
        "nearly in order": np.arange(n) + random.integers(0, 100, n),
        "20 sorted runs": np.concatenate(
            [np.sort(part) for part in np.array_split(random.integers(0, 1 << 40, n), 20)]
        ),
    }
    rows = []
    for shape, keys in shapes.items():
        ways: list[Callable[[], object]] = [
            lambda: argsort(keys),  # noqa: B023
            lambda: np.argsort(keys, kind="stable"),  # noqa: B023
            lambda: np.argsort(keys),  # noqa: B023
            lambda: pc.sort_indices(pa.array(keys)),  # noqa: B023
        ]
        times = [min(_timed(way) for _ in range(3 if n <= 1_000_000 else 2)) for way in ways]
        cells = [_ns(each, n) for each in times]
        rows.append([f"{n:,} {shape}", *cells, f"{min(times[1:]) / times[0]:.2f}×"])
    return rows
