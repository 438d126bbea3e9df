"""``SELECT 1`` over HTTP: what the service itself costs, beside a bare route of the same framework."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.load import exchange, latencies, request_bytes, throughput
from benchmarks.machine import versions
from benchmarks.measure import median_of, ms, percentile, ratio
from benchmarks.options import Options
from benchmarks.report import Goal, Section, Table
from benchmarks.serving import serving, start_announced

__all__ = ["measure_select1"]

CONNECTIONS = 64
BODY = json.dumps({"sql": "SELECT 1"}).encode()


def measure_select1(options: Options) -> Section:
    """Run the benchmark and return what it found."""
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        url = server.url + "/v1/sql"
        request = request_bytes(url, BODY)
        _head, answer = exchange(url, request)
        file = Path(folder) / "answer.json"
        file.write_bytes(answer)
        with start_announced("benchmarks.bare_route", str(file)) as (bare, _pid):
            return _compare(options, {"firnline": url, "bare FastAPI route": bare + "/v1/sql"}, len(answer))


def _compare(options: Options, urls: dict[str, str], n_bytes: int) -> Section:
    requests = {name: request_bytes(url, BODY) for name, url in urls.items()}
    one: dict[str, list[list[float]]] = {name: [] for name in urls}
    many: dict[str, list[tuple[float, list[float]]]] = {name: [] for name in urls}
    for name, url in urls.items():
        latencies(url, requests[name], max(50, options.requests // 10))
        throughput(url, requests[name], CONNECTIONS, options.seconds / 2)
    for _ in range(options.repeats):
        for name, url in urls.items():
            one[name].append(latencies(url, requests[name], options.requests // options.repeats))
            many[name].append(throughput(url, requests[name], CONNECTIONS, options.seconds))
    return _section(options, one, many, n_bytes)


def _section(
    options: Options, one: dict[str, list[list[float]]], many: dict[str, list[tuple[float, list[float]]]], n_bytes: int
) -> Section:
    base = median_of([rate for rate, _ in many["bare FastAPI route"]])
    rows = []
    for name, rounds in one.items():
        p50, p99 = (median_of([percentile(each, percent) for each in rounds]) for percent in (50, 99))
        rate = median_of([rate for rate, _ in many[name]])
        busy = [median_of([percentile(found, percent) for _, found in many[name]]) for percent in (50, 99)]
        rows.append([name, ms(p50), ms(p99), f"{rate:.0f}", ratio(rate, base), *map(ms, busy)])
    p50 = median_of([percentile(each, 50) for each in one["firnline"]])
    goal = Goal("SELECT 1 on one connection, p50", round(p50 * 1000, 3), 3, " ms", options.official)
    header = ["", "p50 ms", "p99 ms", f"{CONNECTIONS} conn.: answers/s", "÷ bare", "p50 ms", "p99 ms"]
    return Section(
        "select1",
        "`SELECT 1` over HTTP",
        facts=[
            f"{options.requests} requests one after another on one kept-alive connection; {CONNECTIONS} connections "
            f"for {options.seconds:.1f} s; each in {options.repeats} rounds that take turns, medians of the rounds.",
            f"The bare route returns the same {n_bytes} bytes from its own uvicorn process. The load generator shares "
            "the machine's cores with both.",
            versions(["firnline", "fastapi", "starlette", "uvicorn", "uvloop", "httptools"]) + ".",
        ],
        tables=[Table(header, rows)],
        goals=[goal],
    )
