"""One key at a time over an S3 API with a delay in front of every request, beside the engines that read the same files.

Each engine runs in a process of its own, opened and warmed by one untimed look-up of each kind; the store counts
requests and bytes. Every look-up asks for another key, so nothing but metadata can come from a cache. An engine whose
look-up of a kind alone takes longer than its budget is not asked again: that one is the sample, and the table says so.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.lookup_data import FORMATS, LAKE, WideTables, row_ids, store, tokens, wide_tables
from benchmarks.lookup_options import LookupOptions
from benchmarks.machine import versions
from benchmarks.measure import median_of, ms, percentile, ratio
from benchmarks.peer_process import PeerError, PeerProcess, Run, peer_process
from benchmarks.peers import S3Access
from benchmarks.progress import progress
from benchmarks.remote import _counts, _reset
from benchmarks.report import Goal, Section, Table

__all__ = ["measure_store"]

KINDS = ("sorted key, hit", "sorted key, miss", "unsorted key, hit", "unsorted key, miss")
PEERS = {
    "delta": ("datafusion", "datafusion-tuned", "duckdb-delta", "polars-delta"),
    "iceberg": ("duckdb-iceberg", "polars-iceberg", "pyiceberg"),
}
CPU_MS, OVER_ROUND_TRIP_MS, TIMES_FASTER = 3.0, 5.0, 10.0
FREE_MISSES = 0.99
OWN = "firnline"


@dataclass
class Cost:
    """What the look-ups of one kind took; ``requests`` are all that the store saw, ``data`` the GETs of data files.

    first : the only one was the first of its kind, which took longer than the engine's budget
    """

    walls_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    requests: float = 0
    gets: float = 0
    data: float = 0
    n_bytes: float = 0
    fault: str = ""
    first: bool = False

    @property
    def n(self) -> int:
        return max(len(self.walls_s), 1)


Found = dict[tuple[str, int, str, str], Cost]
"""By format, delay, engine and kind."""


def measure_store(options: LookupOptions) -> Section:
    """Return requests, bytes, CPU and time of a look-up by each engine."""
    tables = wide_tables(options)
    found: Found = {}
    cold: dict[tuple[str, int, str], Cost] = {}
    round_trips: dict[int, float] = {}
    for delay_ms in options.delays_ms:
        with store(tables, delay_ms) as endpoint:
            round_trips[delay_ms] = _round_trip(tables, endpoint)
            for form in FORMATS:
                for engine in (OWN, *PEERS[form]):
                    progress("store", f"{form}, {delay_ms} ms added: {engine}")
                    _run_engine(options, tables, endpoint, form, delay_ms, engine, found, cold)
    return _section(options, tables, found, cold, round_trips)


def _round_trip(tables: WideTables, endpoint: str) -> float:
    """Seconds of a GET of 64 KiB by the plainest client on a warm connection: the median of 50."""
    import http.client
    from urllib.parse import urlsplit

    path = next((tables.root).rglob("*.parquet")).relative_to(tables.root)
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc)
    walls = []
    for _ in range(50):
        started = time.perf_counter()
        connection.request("GET", f"/{path}", headers={"Range": "bytes=0-65535"})
        connection.getresponse().read()
        walls.append(time.perf_counter() - started)
    connection.close()
    return median_of(walls)


def _run_engine(
    options: LookupOptions, tables: WideTables, endpoint: str, form: str, delay_ms: int, engine: str, found: Found,
    cold: dict[tuple[str, int, str], Cost],
) -> None:  # fmt: skip
    with peer_process("lake" if engine == OWN else engine) as peer:
        try:
            _reset(endpoint)
            started = time.perf_counter()
            peer.open(_opened(tables, form, engine), S3Access(endpoint), timeout_s=120)
            first = cold[form, delay_ms, engine] = Cost()
            asked = _statements(tables, form, engine, seed=1)
            peer.run(next(asked["sorted key, hit"]), timeout_s=120)
            first.walls_s.append(time.perf_counter() - started)
            _add_counts(first, _counts(endpoint))
            for kind in KINDS:
                # A miss costs the others what a hit does; once is enough to see it.
                if engine == OWN or "hit" in kind or delay_ms == min(options.delays_ms):
                    cost = found[form, delay_ms, engine, kind] = Cost()
                    n_misses = options.misses if delay_ms == min(options.delays_ms) else options.slow_misses
                    n = options.lookups if "hit" in kind else n_misses
                    _run_kind(options, peer, asked[kind], endpoint, engine, kind, n, cost)
        except PeerError as error:
            cold.setdefault((form, delay_ms, engine), Cost()).fault = str(error)[:300]


def _run_kind(
    options: LookupOptions, peer: PeerProcess, asked: Iterator[str], endpoint: str, engine: str, kind: str, n: int,
    cost: Cost,
) -> None:  # fmt: skip
    """Ask ``n`` times, or a peer as often as its budget lets it."""
    n_rows = int(kind.endswith("hit"))
    try:
        _reset(endpoint)
        first = peer.run(next(asked))
        if engine != OWN and first.wall_s > options.peer_budget_s:
            cost.first = True
            _add_run(cost, first, n_rows, PeerError, kind)
        else:
            _reset(endpoint)
            until = time.perf_counter() + options.peer_budget_s
            for turn in range(n if engine == OWN else options.peer_lookups):
                if engine != OWN and turn and time.perf_counter() > until:
                    break
                _add_run(cost, peer.run(next(asked)), n_rows, RuntimeError if engine == OWN else PeerError, kind)
    except PeerError as error:
        cost.fault = str(error)[:300]
    _add_counts(cost, _counts(endpoint))


def _add_run(cost: Cost, run: Run, n_rows: int, fault: type[Exception], kind: str) -> None:
    if run.rows != n_rows:
        raise fault(f"found {run.rows} rows of a {kind}")
    cost.walls_s.append(run.wall_s)
    cost.cpu_s.append(run.cpu_s)


def _add_counts(cost: Cost, counts: Mapping[str, int]) -> None:
    cost.requests, cost.n_bytes = counts.get("total", 0), counts.get("bytes_out", 0)
    cost.gets, cost.data = counts.get("GET", 0), counts.get("data", 0)


def _opened(tables: WideTables, form: str, engine: str) -> dict[str, str]:
    if engine == OWN:
        return {"lake": LAKE, "catalog": tables.catalog}
    if engine.startswith("datafusion"):
        return {"t": tables.locations[form] + "/"}
    return {"t": tables.locations[f"{form}_source"]}


def _statements(tables: WideTables, form: str, engine: str, seed: int) -> dict[str, Iterator[str]]:
    """Return endless statements of each kind; no key comes twice soon."""
    ids = row_ids(tables)
    name = f"wide_{form}" if engine == OWN else "t"

    def numbers() -> Iterator[int]:
        rng = np.random.default_rng(seed)
        while True:
            yield int(rng.integers(0, len(ids)))

    def of(where: Callable[[int], str]) -> Iterator[str]:
        return (f"SELECT * FROM {name} WHERE {where(number)}" for number in numbers())

    absent = hashlib.blake2b
    return {
        "sorted key, hit": of(lambda n: f"id = {ids[n]}"),
        "sorted key, miss": of(lambda n: f"id = {ids[n] + 1}"),
        "unsorted key, hit": of(lambda n: f"token = '{tokens(np.array([n]))[0]}'"),
        "unsorted key, miss": of(lambda n: f"token = '{absent(str(n).encode(), digest_size=16).hexdigest()}'"),
    }


def _section(
    options: LookupOptions, tables: WideTables, found: Found, cold: Mapping[tuple[str, int, str], Cost],
    round_trips: Mapping[int, float],
) -> Section:  # fmt: skip
    shown = [
        Table(
            ["", "look-ups", "p50 ms", "p99 ms", "requests", "of data", "KB", "CPU ms", f"p50 ÷ {OWN}"],
            [
                _row(engine, found[form, delay_ms, engine, kind], found[form, delay_ms, OWN, kind])
                for engine in (OWN, *PEERS[form])
                if (form, delay_ms, engine, kind) in found
            ],
            f"{form}, {delay_ms} ms added: {kind}",
        )
        for delay_ms in options.delays_ms
        for form in FORMATS
        for kind in KINDS
        if (form, delay_ms, OWN, kind) in found
    ]
    shown.append(
        Table(
            ["", "ms", "requests", "MB"],
            [
                [f"{engine}, {form}, {delay_ms} ms", ms(median_of(cost.walls_s)), f"{cost.requests:.0f}",
                 f"{cost.n_bytes / 1e6:.1f}"]
                for (form, delay_ms, engine), cost in cold.items()
            ],
            "The first look-up of a fresh process, opening the table included, imports not",
        )
    )  # fmt: skip
    faults = [f"{engine}, {form}, {d} ms: {cost.fault}" for (form, d, engine), cost in cold.items() if cost.fault]
    faults += [
        f"{engine}, {form}, {d} ms, {kind}: {c.fault}" for (form, d, engine, kind), c in found.items() if c.fault
    ]
    trips = ", ".join(f"{ms(round_trips[each])} ms with {each} added" for each in options.delays_ms)
    return Section(
        "store",
        "One key over an S3 API",
        [
            f"`SELECT * … WHERE key = …` of {tables.n_rows:,} rows of 16 columns in {tables.n_files:,} files, behind "
            "`benchmarks/s3_facade.py`, whose log counts. `id` is sorted and has a learned index, `token` is random "
            "and has a locator. Warm: tables opened, one look-up of the kind done; an engine that took more than "
            f"{options.peer_budget_s:g} s for that one was not asked again, and its look-ups are given as `1st`. "
            f"Misses of the others are measured with {min(options.delays_ms)} ms added only.",
            f"A round trip of the plainest client, 64 KiB: {trips}.",
            versions(["firnline", "datafusion", "duckdb", "polars", "pyiceberg"]) + ".",
        ],
        shown,
        list(_goals(options, found, round_trips)),
        [*_floors(options, found, round_trips), *faults],
    )


def _floors(options: LookupOptions, found: Found, round_trips: Mapping[int, float]) -> Iterator[str]:
    """Say what the best peer's time is in round trips, more than which nobody who makes one can be faster."""
    slowest = max(options.delays_ms)
    trip = round_trips[slowest]
    for form in FORMATS:
        for kind in KINDS:
            costs = {engine: found[key] for engine in PEERS[form] if (key := (form, slowest, engine, kind)) in found}
            walls = {engine: median_of(cost.walls_s) for engine, cost in costs.items() if cost.walls_s}
            if walls and kind.endswith("hit"):
                best = min(walls, key=walls.__getitem__)
                times = walls[best] / trip
                n_requests = costs[best].requests / costs[best].n
                yield (
                    f"{form}, {kind}, {slowest} ms added: the best peer, {best}, takes {times:.1f} round trips "
                    f"({n_requests:.0f} requests), so whoever makes one is at most {times:.1f} times faster."
                )


def _row(engine: str, cost: Cost, own: Cost) -> list[str]:
    if not cost.walls_s:
        return [engine, *["–"] * 8]
    n = "1st" if cost.first else f"{len(cost.walls_s):,}"
    return [
        engine, n, ms(median_of(cost.walls_s)), ms(percentile(cost.walls_s, 99)), f"{cost.requests / cost.n:.2f}",
        f"{cost.data / cost.n:.2f}", f"{cost.n_bytes / cost.n / 1e3:,.0f}",
        f"{sum(cost.cpu_s) / cost.n * 1e3:.2f}", ratio(median_of(cost.walls_s), median_of(own.walls_s)),
    ]  # fmt: skip


def _goals(options: LookupOptions, found: Found, round_trips: Mapping[int, float]) -> Iterator[Goal]:
    slowest = max(options.delays_ms)
    for form in FORMATS:
        for kind in KINDS:
            name = f"{form}, {kind}"
            costs = [found[form, delay, OWN, kind] for delay in options.delays_ms]
            if kind.endswith("hit"):
                yield Goal(f"{name}: data requests", _worst(costs, lambda c: c.data / c.n), 1, "", options.official)
                yield Goal(f"{name}: all GETs", _worst(costs, lambda c: c.gets / c.n), 1, "", options.official)
                for delay, cost in zip(options.delays_ms, costs, strict=True):
                    limit = round_trips[delay] * 1e3 + OVER_ROUND_TRIP_MS
                    value = median_of(cost.walls_s) * 1e3
                    yield Goal(f"{name}, {delay} ms added: p50", value, limit, " ms", options.official)
                peers = [found.get((form, slowest, engine, kind), Cost()).walls_s for engine in PEERS[form]]
                best = min((median_of(walls) for walls in peers if walls), default=float("nan"))
                times = best / median_of(costs[-1].walls_s)
                yield Goal(f"{name}, {slowest} ms added: times faster than the best peer", times, TIMES_FASTER, "×",
                           options.official, True)  # fmt: skip
            else:
                n = sum(cost.n for cost in costs)
                free = sum(cost.data for cost in costs) / n
                yield Goal(f"{name}: data requests a look-up, of {n:,}", free, 1 - FREE_MISSES, "", options.official)
            for delay, cost in zip(options.delays_ms, costs, strict=True):
                value = sum(cost.cpu_s) / cost.n * 1e3
                yield Goal(f"{name}, {delay} ms added: CPU", value, CPU_MS, " ms", options.official)


def _worst(costs: Sequence[Cost], value: Callable[[Cost], float]) -> float:
    return max(map(value, costs))
