"""Models of keys in memory: nanoseconds a look-up, rates of fitting and bytes a key, beside other sorted structures."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pygm
from sortedcontainers import SortedDict

from benchmarks.lookup_fences import HEADER, fence_rows, footer_table
from benchmarks.lookup_options import LookupOptions
from benchmarks.measure import median_of
from benchmarks.progress import progress
from benchmarks.report import Goal, Section, Table
from functions.index import fuse_map, piecewise
from functions.index.locator import BITS_MAX
from functions.index.piecewise import PiecewiseLinear
from functions.kernels.pla import search_positions
from functions.keys import key_hashes
from functions.lookup_layout import GROUP_ROWS

__all__ = ["measure_kernels"]

_REPEATS = 5
_CALLS = 100_000
"""Look-ups of what takes one Python call for each."""
_SQLITE_MAX, _DICT_MAX = 10_000_000, 1_000_000


def measure_kernels(options: LookupOptions) -> Section:
    """Return times and sizes of the two models, beside their peers."""
    _warm()
    maps, sorted_keys, fences = {}, [], []
    for n in options.keys:
        progress("kernels", f"{n:,} keys: maps")
        maps[n] = _Maps.of(n, options.queries)
        for name, make in KEYS.items():
            progress("kernels", f"{n:,} keys: {name}")
            keys = make(n)
            sorted_keys.append(_Sorted.of(f"{n:,} {name}", keys, options.queries, maps[n].filter_bytes))
            if n == options.keys[-1]:
                fences += fence_rows(f"{n:,} {name}", keys, options.queries)
    progress("kernels", "few keys at once, and footers")
    single = _single(options.keys[-1])
    return Section(
        "kernels",
        "Models of keys",
        [
            "Keys: uniform; lognormal (sigma 2); timestamps (generated: bursts of events in microseconds, gaps of a "
            "Pareto distribution with exponent 1.5, slower at night); hard (runs of 100 neighbours, far apart).",
            "Rates of building a map are of one run. "
            f"{options.queries:,} random queries, half of them keys; one thread; medians of {_REPEATS} runs. Every "
            "peer finds the same answers. The model's look-up is exact: the prediction and the search about it.",
            f"pygm, sqlite3 (in memory, an integer primary key, up to {_SQLITE_MAX:,} keys) and SortedDict (up to "
            f"{_DICT_MAX:,}) take one Python call for each look-up, which their times contain; "
            f"{min(_CALLS, options.queries):,} of the queries.",
        ],
        [
            Table(
                ["keys", "predict", "look up", "np.searchsorted", "÷ look up", "pygm", "sqlite3", "SortedDict"],
                [each.times for each in sorted_keys],
                "Sorted keys: nanoseconds a look-up",
            ),
            Table(
                ["keys", "segments", "bytes a key", "with an 8-bit filter", "fit, M keys/s", "error, rows"],
                [each.sizes for each in sorted_keys],
                "Sorted keys: the models (epsilon 32)",
            ),
            Table(HEADER, fences, "Sorted keys: the block of a key, by the model and by fences, both in memory"),
            footer_table(options),
            Table(
                ["map", "bits a key", "bytes a key", "slots a key", "build, M keys/s", "hit, ns", "miss, ns",
                 "misses with a value"],
                [row for each in maps.values() for row in each.rows],
                "Keys in any order: binary fuse maps",
            ),
            Table(["a batch of", *(f"{size:,}" for size in _SINGLES)], single, "Few keys at once: microseconds a call"),
        ],
        _goals(options, sorted_keys, maps, float(single[0][1]), float(single[1][1])),
        [
            "bytes a key: of the model; a look-up among files also needs the filter, which says of keys that are "
            "nowhere that they are not.",
            "Fences: the first key of each block, row group or page, and a binary search. A page index is fences too, "
            "of each column, behind two requests.",
            f"key → block: blocks of {GROUP_ROWS:,} rows; 8 bits of fingerprint, or 7 where 8 are too many for the "
            "locator. Beyond some 16 million keys the block's number alone takes the map over 2.5 bytes.",
        ],
    )  # fmt: skip


def _goals(
    options: LookupOptions, sorted_keys: list[_Sorted], maps: Mapping[int, _Maps], predict_us: float, find_us: float
) -> list[Goal]:
    largest, official = sorted_keys[-len(KEYS) :], options.official
    n = f"{options.keys[-1]:,} keys"
    goals = [Goal(f"look-up, {n}, {each.name}", each.lookup, 300, " ns", official) for each in largest]
    goals += [Goal(f"fit, {n}, {each.name}", each.fit_rate, 100, " M keys/s", official, True) for each in largest]
    goals += [Goal(f"sorted, {n}, {each.name}", each.bytes_a_key, 0.1, " bytes a key", official) for each in largest]
    goals += [
        Goal(f"unsorted, {size:,} keys", each.block_bytes, 2.5, " bytes a key", official) for size, each in maps.items()
    ]
    goals.append(Goal("predict one key", predict_us, 30, " µs", official))
    goals.append(Goal("find one key in a map", find_us, 30, " µs", official))
    return goals


def _uniform(n: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 1 << 62, n, np.uint64)


def _lognormal(n: int) -> np.ndarray:
    return (np.random.default_rng(2).lognormal(0, 2, n) * 1e12).astype(np.uint64)


def _timestamps(n: int) -> np.ndarray:
    random = np.random.default_rng(3)
    gaps = 1 + random.pareto(1.5, n) * 1_000
    nights = 1 + 4 * (np.sin(np.arange(n) * (20 * np.pi / n)) > 0)
    return 1_700_000_000_000_000 + np.cumsum(gaps * nights).astype(np.uint64)


def _hard(n: int) -> np.ndarray:
    starts = np.random.default_rng(4).integers(0, 1 << 62, -(-n // 100), np.uint64)
    return (starts[:, None] + np.arange(100, dtype=np.uint64)).ravel()[:n]


def _distinct(keys: np.ndarray) -> np.ndarray:
    """Sort them: `np.unique` goes by a hash table, which took twenty times as long for 10M keys."""
    keys.sort()
    return keys[np.append(True, keys[1:] != keys[:-1])]


KEYS: Mapping[str, Callable[[int], np.ndarray]] = {
    "uniform": lambda n: _distinct(_uniform(n)),
    "lognormal": lambda n: _distinct(_lognormal(n)),
    "timestamps": lambda n: _distinct(_timestamps(n)),
    "hard": lambda n: _distinct(_hard(n)),
}


@dataclass(frozen=True)
class _Sorted:
    name: str
    times: list[str]
    sizes: list[str]
    lookup: float
    fit_rate: float
    bytes_a_key: float

    @classmethod
    def of(cls, name: str, keys: np.ndarray, n_queries: int, filter_bytes: float) -> _Sorted:
        n, random = len(keys), np.random.default_rng(5)
        half = n_queries // 2
        others = random.integers(0, int(keys[-1]), n_queries - half, np.uint64)
        queries = np.concatenate([random.choice(keys, half), others])
        random.shuffle(queries)
        fit_seconds = _median(lambda: piecewise.fit(keys), 3)
        model = piecewise.fit(keys)
        ranks = np.searchsorted(keys, queries)
        if not np.array_equal(_search(model, keys, queries), ranks):
            raise AssertionError(f"the model is wrong keys={name}")
        predict = _median(lambda: model.predict(queries)) / n_queries * 1e9
        lookup = _median(lambda: _search(model, keys, queries)) / n_queries * 1e9
        numpys = _median(lambda: np.searchsorted(keys, queries)) / n_queries * 1e9
        asked, expected = queries[:_CALLS].tolist(), ranks[:_CALLS].tolist()
        peers = [
            _pygm(keys, asked, expected),
            _sqlite(keys, asked) if n <= _SQLITE_MAX else None,
            _sorted_dict(keys, asked) if n <= _DICT_MAX else None,
        ]
        return cls(
            name.split()[-1],
            [name, f"{predict:.0f}", f"{lookup:.0f}", f"{numpys:.0f}", f"{numpys / lookup:.1f}×", *map(_ns, peers)],
            [
                name, f"{len(model.first_keys):,}", f"{model.n_bytes / n:.4f}",
                f"{model.n_bytes / n + filter_bytes:.2f}", f"{n / fit_seconds / 1e6:.0f}", f"{model.error}",
            ],
            lookup,
            n / fit_seconds / 1e6,
            model.n_bytes / n,
        )  # fmt: skip


@dataclass(frozen=True)
class _Maps:
    rows: list[list[str]]
    filter_bytes: float
    block_bytes: float

    @classmethod
    def of(cls, n: int, n_queries: int) -> _Maps:
        hashes = key_hashes(pa.table({"key": pa.array(_uniform(n).view(np.int64))}), ["key"])
        hashes = _distinct(hashes)
        np.random.default_rng(6).shuffle(hashes)
        blocks = (np.arange(len(hashes)) // GROUP_ROWS).astype(np.uint32)
        bits = int(blocks[-1]).bit_length()
        rows, bytes_a_key = [], []
        for name, values, value_bits, fingerprint_bits in (
            ("filter", None, 0, 8),
            ("key → block", blocks, bits, 8 if bits + 8 <= BITS_MAX else 7),
        ):
            row, size = _map_row(f"{n:,} {name}", hashes, values, value_bits, fingerprint_bits, n_queries)
            rows.append(row)
            bytes_a_key.append(size)
        return cls(rows, *bytes_a_key)


def _map_row(
    name: str, hashes: np.ndarray, values: np.ndarray | None, value_bits: int, fingerprint_bits: int, n_queries: int
) -> tuple[list[str], float]:
    n, random = len(hashes), np.random.default_rng(7)
    started = time.perf_counter()
    made = fuse_map.build(hashes, values, fingerprint_bits=fingerprint_bits, value_bits=value_bits)
    seconds = time.perf_counter() - started
    at = random.integers(0, n, n_queries)
    hits, misses = hashes[at], random.integers(0, (1 << 64) - 1, n_queries, np.uint64)
    if not np.array_equal(made.find(hits), np.zeros(n_queries) if values is None else values[at]):
        raise AssertionError(f"the map is wrong map={name}")
    false = float((made.find(misses) >= 0).mean())
    width = fingerprint_bits + value_bits
    row = [
        f"{name}, {width} bits", f"{made.n_bytes * 8 / n:.2f}", f"{made.n_bytes / n:.3f}",
        f"{made.n_bytes * 8 / n / width:.4f}", f"{n / seconds / 1e6:.1f}",
        f"{_median(lambda: made.find(hits)) / n_queries * 1e9:.0f}",
        f"{_median(lambda: made.find(misses)) / n_queries * 1e9:.0f}", f"{false:.2%}",
    ]  # fmt: skip
    return row, made.n_bytes / n


_SINGLES = (1, 10, 100, 1_000)


def _single(n: int) -> list[list[str]]:
    """Of plain Python and numpy up to a thousand keys, which is what a process without numba runs."""
    keys = _distinct(_uniform(min(n, 1_000_000)))
    model = piecewise.fit(keys)
    found = fuse_map.build(keys, None, fingerprint_bits=8)
    other = pygm.SortedList(keys.tolist(), "q")
    asked = {size: np.random.default_rng(size).choice(keys, size) for size in _SINGLES}
    acts: dict[str, Callable[[np.ndarray], object]] = {
        "PiecewiseLinear.predict": model.predict,
        "FuseMap.find": found.find,
        "key_hashes of Arrow integers": lambda some: key_hashes(pa.table({"key": some}), ["key"]),
        "np.searchsorted": lambda some: np.searchsorted(keys, some),
        "pygm, one by one": lambda some: [other.bisect_left(key) for key in some.tolist()],
    }
    rows = []
    for name, act in acts.items():
        times = [_median(lambda act=act, some=some: [act(some) for _ in range(100)]) for some in asked.values()]  # type: ignore[misc]
        rows.append([name, *(f"{seconds / 100 * 1e6:.1f}" for seconds in times)])
    return rows


def _warm() -> None:
    """Load what numba compiled, or compile it."""
    keys = np.arange(5_000, dtype=np.uint64)
    _search(piecewise.fit(keys), keys, keys)
    for values, bits in ((None, 0), (np.zeros(5_000, np.uint32), 1)):
        fuse_map.build(keys, values, fingerprint_bits=8, value_bits=bits).find(keys)
    key_hashes(pa.table({"key": keys.view(np.int64)}), ["key"])


def _search(model: PiecewiseLinear, keys: np.ndarray, queries: np.ndarray) -> np.ndarray:
    found: np.ndarray = search_positions(keys, queries, model.predict(queries), model.error)
    return found


def _pygm(keys: np.ndarray, asked: list[int], expected: list[int]) -> float:
    other = pygm.SortedList(keys.view(np.int64), "q")
    if [other.bisect_left(key) for key in asked[:1_000]] != expected[:1_000]:
        raise AssertionError("pygm answers otherwise")
    return _median(lambda: [other.bisect_left(key) for key in asked], 3) / len(asked) * 1e9


def _sqlite(keys: np.ndarray, asked: list[int]) -> float:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (key INTEGER PRIMARY KEY, row INTEGER)")
    connection.executemany("INSERT INTO t VALUES (?, ?)", zip(keys.tolist(), range(len(keys)), strict=True))
    execute = connection.execute
    try:
        return (
            _median(lambda: [execute("SELECT row FROM t WHERE key = ?", (key,)).fetchone() for key in asked], 3)
            / len(asked)
            * 1e9
        )
    finally:
        connection.close()


def _sorted_dict(keys: np.ndarray, asked: list[int]) -> float:
    held = SortedDict(zip(keys.tolist(), range(len(keys)), strict=True))
    return _median(lambda: [held.bisect_left(key) for key in asked], 3) / len(asked) * 1e9


def _median(act: Callable[[], object], repeats: int = _REPEATS) -> float:
    """Return seconds of one run."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        act()
        times.append(time.perf_counter() - started)
    return median_of(times)


def _ns(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
