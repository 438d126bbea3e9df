"""Whether receipts tell the truth: what they say a statement used, beside the store's log, the kernel and the platform.

The files lie behind an S3 API that counts requests (`benchmarks.s3_facade`). Of Lambda functions AWS's own emulator
says after each invocation what it would bill; of processes the kernel says what they used.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from benchmarks.functions_options import FunctionsOptions
from benchmarks.functions_peers import MEMORY_MB, WORKERS_LOG
from benchmarks.peer_process import PeerError, PeerProcess, peer_process
from benchmarks.peers import S3Access
from benchmarks.planning_tables import facade
from benchmarks.process_tree import tree_cpu_s
from benchmarks.report import Goal, Section, Table
from benchmarks.tpch_data import tpch_queries, tpch_tables
from service.cost import Prices

__all__ = ["measure_cost"]

PLACES = ("in process", "2 processes", "2 Lambda emulators")
LIMIT = 5.0
_RUNS = {2: "second", 3: "third"}
_BILLED = re.compile(r"^REPORT .*Billed Duration: (\d+) ms", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Used:
    """What a statement used: reads, writes with listings, CPU seconds, GB seconds, USD."""

    gets: float = 0.0
    puts: float = 0.0
    cpu_s: float = 0.0
    gb_s: float = 0.0
    usd: float = 0.0

    def __add__(self, other: Used) -> Used:
        return Used(*(getattr(self, each) + getattr(other, each) for each in Used.__slots__))


@dataclass(frozen=True, slots=True)
class Compared:
    """A statement: its tasks, what its estimate, its receipt and the others say."""

    tasks: int
    estimate_usd: float
    receipt: Used
    truth: Used


def measure_cost(options: FunctionsOptions) -> Section:
    """Run the benchmark and return what it found."""
    queries = {number: sql for number, sql in tpch_queries().items() if number in options.cost_queries}
    root = options.build / f"remote-sf{options.scale}"
    _link(root, options)
    found: dict[str, dict[int, Compared]] = {}
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder, facade(root) as endpoint:
        for place in PLACES:
            log = Path(folder) / f"{place}.log"
            os.environ[WORKERS_LOG] = str(log)
            found[place] = {}
            with peer_process(place) as peer:
                try:
                    _measure_place(peer, endpoint, log, options, queries, found[place])
                except PeerError as error:
                    notes.append(f"{place}: {' '.join(str(error).split())[:200]}")
            del os.environ[WORKERS_LOG]
    return _section(options, found, notes)


def _link(root: Path, options: FunctionsOptions) -> None:
    (root / "tpch").mkdir(parents=True, exist_ok=True)
    (root / "lake").mkdir(exist_ok=True)
    for name, path in tpch_tables(options.scale, options.build).items():
        link = root / "tpch" / f"{name}.parquet"
        if not link.exists() or not link.samefile(path):
            link.unlink(missing_ok=True)
            os.link(path, link)


def _measure_place(
    peer: PeerProcess, endpoint: str, log: Path, options: FunctionsOptions, queries: Mapping[int, str],
    found: dict[int, Compared],
) -> None:  # fmt: skip
    tables = {name: f"s3://tpch/{name}.parquet" for name in tpch_tables(options.scale, options.build)}
    peer.open(tables, S3Access(endpoint))
    for number, sql in queries.items():
        for _ in range(options.cost_runs - 1):  # footers are read once by each worker: no usual cost of a statement
            peer.run(sql, timeout_s=options.query_s)
        estimate = _estimate(peer, sql, log.with_suffix(".arrow"))
        billed_before = _billed_ms(log)
        _counts(endpoint, reset=True)
        before_s = tree_cpu_s(peer.pid)
        receipt = peer.run(sql, timeout_s=options.query_s).receipt
        assert receipt is not None
        cpu_s, counts, billed = tree_cpu_s(peer.pid) - before_s, _counts(endpoint), _billed_ms(log)
        gets, puts = (
            sum(counts.get(kind, 0) for kind in kinds) for kinds in (("GET", "HEAD"), ("PUT", "LIST", "POST"))
        )
        billed_ms = billed[len(billed_before) :]
        prices, gb_s = Prices(), sum(billed_ms) / 1000 * MEMORY_MB / 1024
        usd = gb_s * prices.gb_second + len(billed_ms) * prices.invocation + prices.of_requests(gets, puts)
        said = Used(receipt["gets"], receipt["puts"], (receipt["cpu_ms"] + receipt["task_cpu_ms"]) / 1000,
                    receipt["task_gb_s"], receipt["cost_usd"])  # fmt: skip
        found[number] = Compared(receipt["tasks"], estimate, said, Used(gets, puts, cpu_s, gb_s, usd))


def _estimate(peer: PeerProcess, sql: str, path: Path) -> float:
    """Return the USD that EXPLAIN estimates; 0 where it has none."""
    peer.run(f"EXPLAIN {sql}", save=path)
    with pa.ipc.open_file(path) as file:
        text = " ".join(str(value) for column in file.read_all().columns for value in column.to_pylist())
    said = re.search(r"usd=([\d.e-]+)", text)
    return float(said[1]) if said else 0.0


def _billed_ms(log: Path) -> list[int]:
    return [int(each) for each in _BILLED.findall(log.read_text())] if log.is_file() else []


def _counts(endpoint: str, *, reset: bool = False) -> dict[str, int]:
    request = urllib.request.Request(
        endpoint + ("/_reset" if reset else "/_requests"), method="POST" if reset else "GET"
    )
    with closing(urllib.request.urlopen(request, timeout=30)) as reply:
        body = reply.read()
    found: dict[str, int] = {} if reset else json.loads(body)
    return found


def _section(options: FunctionsOptions, found: Mapping[str, Mapping[int, Compared]], notes: Sequence[str]) -> Section:
    official = options.official
    totals = {place: _total(each.values()) for place, each in found.items()}
    here, there, billed = (totals[place] for place in PLACES)
    return Section(
        "cost",
        "What receipts say",
        facts=[
            f"TPC-H scale factor {options.scale} behind an S3 API on the loopback, the {_RUNS[options.cost_runs]} "
            "run of each statement. Gets are GET and HEAD, puts are PUT and LIST, as receipt and store count them; the "
            "engine counts none of its own, so the receipt reckons them from its metrics (`functions.engine_reads`).",
            "CPU of the receipt is the coordinator's and the tasks', beside user and system time of all processes. "
            "GB seconds of Lambda are those that the emulator's REPORT lines bill, at 1,769 MB; the start of an "
            "environment, which AWS bills too, is in neither.",
            "Prices are those of `service.cost` on both sides: they are not measured here.",
        ],
        tables=[_cost_table(found[PLACES[2]]), *(_usage_table(place, found[place]) for place in PLACES[:2])],
        goals=[
            Goal(
                "cost in USD, receipts ÷ log and platform, Lambda, off by", _off(billed, "usd"), LIMIT, " %", official
            ),
            Goal("GB seconds, receipts ÷ billed, off by", _off(billed, "gb_s"), LIMIT, " %", official),
            Goal("gets, receipts ÷ store, tasks, off by", _off(there, "gets"), LIMIT, " %", official),
            Goal("gets, receipts ÷ store, in process, off by", _off(here, "gets"), LIMIT, " %", official),
            Goal("CPU, receipts ÷ kernel, tasks, off by", _off(there, "cpu_s"), LIMIT, " %", official),
        ],
        notes=list(notes),
    )


def _total(found: Iterable[Compared]) -> tuple[Used, Used]:
    said, truth = Used(), Used()
    for each in found:
        said, truth = said + each.receipt, truth + each.truth
    return said, truth


def _off(total: tuple[Used, Used], member: str) -> float | None:
    said, truth = (getattr(each, member) for each in total)
    return round(abs(said / truth - 1) * 100, 2) if truth else None


def _percent(said: float, truth: float) -> str:
    return f"{(said / truth - 1) * 100:+.1f} %" if truth else "–"


def _cost_table(found: Mapping[int, Compared]) -> Table:
    rows = []
    for number, each in found.items():
        said, truth = each.receipt, each.truth
        rows.append([
            f"Q{number}", str(each.tasks), f"{said.gets:.0f}", f"{truth.gets:.0f}", f"{said.puts:.0f}",
            f"{truth.puts:.0f}", f"{said.gb_s:.3f}", f"{truth.gb_s:.3f}", f"{each.estimate_usd * 1e6:.1f}",
            f"{said.usd * 1e6:.1f}", f"{truth.usd * 1e6:.1f}", _percent(said.usd, truth.usd),
        ])  # fmt: skip
    said, truth = _total(found.values())
    rows.append(["all", str(sum(each.tasks for each in found.values())), f"{said.gets:.0f}", f"{truth.gets:.0f}",
                 f"{said.puts:.0f}", f"{truth.puts:.0f}", f"{said.gb_s:.3f}", f"{truth.gb_s:.3f}",
                 f"{sum(each.estimate_usd for each in found.values()) * 1e6:.1f}", f"{said.usd * 1e6:.1f}",
                 f"{truth.usd * 1e6:.1f}", _percent(said.usd, truth.usd)])  # fmt: skip
    header = ["query", "tasks", "gets, receipt", "store", "puts, receipt", "store", "GB s, receipt", "billed",
              "µUSD, before", "receipt", "log and platform", "off"]  # fmt: skip
    return Table(header, rows, "Tasks as Lambda functions under AWS's emulator")


def _usage_table(place: str, found: Mapping[int, Compared]) -> Table:
    lines = [(f"Q{number}", each.receipt, each.truth) for number, each in found.items()]
    rows = []
    for name, said, truth in [*lines, ("all", *_total(found.values()))]:
        rows.append([name, f"{said.gets:.0f}", f"{truth.gets:.0f}", _percent(said.gets, truth.gets),
                     f"{said.cpu_s:.2f}", f"{truth.cpu_s:.2f}", _percent(said.cpu_s, truth.cpu_s)])  # fmt: skip
    header = ["query", "gets, receipt", "store", "off", "CPU s, receipt", "kernel", "off"]
    return Table(header, rows, place.capitalize())
