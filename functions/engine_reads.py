"""What the engine asked of object stores: its clients count nothing, so it is reckoned from a plan's metrics.

Of Parquet files it reads, one ranged GET each: for every row group that its statistics and filters left, the wanted
columns, in as many requests as lie more than `COALESCE_BYTES` apart; the footer, the first time in a session, in two;
the page index of a file that has one, where a filter may use it, each time. `make bench-functions` holds the sum to a
store's log.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, MutableSet, Sequence
from dataclasses import dataclass
from typing import Any

from datafusion import ExecutionPlan, SessionContext

from functions.plan_proto import Kind, Node, decode, fields_of

__all__ = ["COALESCE_BYTES", "engine_gets", "planning_gets", "run_gets", "scans_of"]

COALESCE_BYTES = 1 << 20
"""The engine's store reads ranges that are at most so far apart as one."""
FOOTER_GETS, NEW_FILE_GETS = 2, 3
"""The footer's length, then the footer: a plan that came as bytes says no size to try with. A file that is planned for
the first time: its size twice, and the footer."""
_FILES, _SCHEMA, _STATISTICS, _STORE = 1, 2, 6, 8
"""Fields of a file group, and of a scan's configuration."""
_PATH, _SIZE, _RANGE = 1, 2, 5
"""Fields of a file."""
_COLUMNS, _MAX, _MIN, _BYTES = 3, 2, 1, 6
"""Fields of statistics, and of a column's."""
_DECIMAL = 20
_WIDTHS = {6: 4, 7: 8, 8: 4, 11: 8, 14: 4, _DECIMAL: 16}
"""Kinds of numbers and dates as statistics have them: bytes of a plain value."""
_DICTIONARY_BITS = 17
_TEXT_SHARE, _PLAIN_SHARE = 0.5, 0.75
"""What compression leaves of text, and of numbers of a wide range."""
_PROJECTION = re.compile(r"projection=\[(.*?)\](?:, [a-z_]+=|$)", re.DOTALL)
_TOTAL = re.compile(r"([\d.]+) ?([KMB]?) total → ([\d.]+) ?([KMB]?) matched")
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9}


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan of an encoded plan.

    paths : of its files, once for each part of a file that is read by itself
    n_bytes : of these parts, all columns
    columns : of the files, in their order, each with its share of the bytes as the statistics let it be thought
    """

    remote: bool
    parquet: bool
    paths: tuple[str, ...]
    n_bytes: int
    columns: tuple[tuple[str, float], ...]


def scans_of(payload: bytes) -> list[Scan]:
    """Return the scans of an encoded plan, in the order in which its metrics have them. Raises as `decode`."""
    return [_scan(node) for node in decode(payload).walk() if node.groups]


def engine_gets(plan: ExecutionPlan, scans: Sequence[Scan], footers: MutableSet[str] | None = None) -> int:
    """Return the GETs that a plan which has run is reckoned to have made, of files in object stores.

    Parameters
    ----------
    scans : of the same plan, as `scans_of` has them
    footers : files whose footers the session has read; those of this plan are added. None: they were read before
    """
    if not any(scan.remote for scan in scans):
        return 0
    run = [(name, metrics) for name, metrics in plan.collect_metrics() if "file_groups=" in name]
    if len(run) != len(scans):
        return sum(len(scan.paths) for scan in scans if scan.remote)
    return sum(
        _gets(name, metrics, scan, footers) for (name, metrics), scan in zip(run, scans, strict=True) if scan.remote
    )


def planning_gets(locations: Iterable[str], footers: MutableSet[str]) -> int:
    """Return the HEADs and GETs of planning scans of these files: one for each file and plan, and three with the footer
    more for one that this session has not planned before; ``footers`` takes it in."""
    gets = 0
    for location in locations:
        if not location.startswith("file://"):
            gets += 1 if location in footers else 1 + NEW_FILE_GETS
            footers.add(location)
    return gets


def run_gets(plan: ExecutionPlan, context: SessionContext) -> int:
    """Return what `engine_gets` does for a plan of this process, whose planning read the footers; 0 if the plan cannot
    be encoded: then nothing of it is native."""
    try:
        scans = scans_of(plan.to_bytes(context))
    except Exception:  # noqa: BLE001 - the engine's own, and nodes that are not known: nothing but the count is lost
        return 0
    return engine_gets(plan, scans)


def _gets(name: str, metrics: Any, scan: Scan, footers: MutableSet[str] | None) -> int:
    if not scan.parquet:
        return len(scan.paths)
    total = kept = pages = 0
    wanted = metrics.sum_by_name("bytes_scanned") or 0
    for metric in metrics.metrics():
        match metric.name:
            case "row_groups_pruned_statistics":
                total += _counts(str(metric))[0]
            case "row_groups_pruned_bloom_filter":
                kept += _counts(str(metric))[1]
            case "page_index_pages_pruned":
                pages += _counts(str(metric))[0] > 0
    unwanted = scan.n_bytes / max(1, total) - wanted / max(1, kept)
    gets = kept * _ranges(name, scan, unwanted) if wanted else 0
    if footers is not None:
        # Parts of a file that are opened at once each read its footer.
        gets += FOOTER_GETS * sum(path not in footers for path in scan.paths) + pages
        footers |= set(scan.paths)
    return gets


def _ranges(name: str, scan: Scan, unwanted_bytes: float) -> int:
    """Return how many requests the wanted columns of a row group take."""
    if unwanted_bytes <= COALESCE_BYTES:
        return 1
    shown = _PROJECTION.search(name)
    words = set(re.findall(r"\w+", shown[1])) if shown else set()
    total = sum(share for column, share in scan.columns if column not in words) or 1.0
    ranges, gap = 1, None
    for column, share in scan.columns:
        if column in words:
            ranges += gap is not None and gap > COALESCE_BYTES
            gap = 0.0
        elif gap is not None:
            gap += share / total * unwanted_bytes
    return ranges


def _scan(node: Node) -> Scan:
    config = [each for part in node.data(1) for each in fields_of(part)]
    root = b"".join(value for field, value in config if field == _STORE and isinstance(value, bytes))
    columns = tuple(_columns(config))
    files = [dict(fields_of(value)) for group in node.groups for field, value in fields_of(group)
             if field == _FILES and isinstance(value, bytes)]  # fmt: skip
    paths = tuple(_text(file.get(_PATH)) for file in files)
    return Scan(
        not root.startswith(b"file:"), node.kind == Kind.PARQUET_SCAN, paths, sum(map(_part_bytes, files)), columns
    )


def _part_bytes(file: dict[int, int | bytes]) -> int:
    part, size = file.get(_RANGE), file.get(_SIZE, 0)
    if isinstance(part, bytes):
        ends = dict(fields_of(part))
        start, limit = ends.get(1, 0), ends.get(2, 0)
        if isinstance(start, int) and isinstance(limit, int):
            return limit - start
    return size if isinstance(size, int) else 0


def _columns(config: Sequence[tuple[int, int | bytes]]) -> Iterator[tuple[str, float]]:
    names = [_text(dict(fields_of(column)).get(1)) for column in _messages(config, _SCHEMA, 1)]
    weights = [_weight(dict(fields_of(column))) for column in _messages(config, _STATISTICS, _COLUMNS)]
    if len(weights) != len(names) or None in weights:
        weights = [1.0] * len(names)
    total = sum(each or 0.0 for each in weights) or 1.0
    return ((name, (weight or 0.0) / total) for name, weight in zip(names, weights, strict=True))


def _messages(config: Sequence[tuple[int, int | bytes]], outer: int, inner: int) -> list[bytes]:
    return [value for field, message in config if field == outer and isinstance(message, bytes)
            for number, value in fields_of(message) if number == inner and isinstance(value, bytes)]  # fmt: skip


def _weight(statistics: dict[int, int | bytes]) -> float | None:
    """Return about how many bytes a column takes: numbers of a narrow range lie in a dictionary, others plainly."""
    size = _number(statistics.get(_BYTES))
    lowest, highest = _number(statistics.get(_MIN)), _number(statistics.get(_MAX))
    if size is None:
        return None
    kind = _scalar(statistics.get(_MIN))[0]
    if lowest is None or highest is None or kind not in _WIDTHS:
        return size * _TEXT_SHARE
    bits = math.log2(abs(highest - lowest) + 2)
    row_bytes = bits / 8 if bits <= _DICTIONARY_BITS else min(8, _WIDTHS[kind]) * _PLAIN_SHARE
    return size * row_bytes / _WIDTHS[kind]


def _scalar(precise: int | bytes | None) -> tuple[int, int | bytes | None]:
    """Return the kind and the value of what a statistic says."""
    value = dict(fields_of(precise)).get(2) if isinstance(precise, bytes) else None
    return next(fields_of(value), (0, None)) if isinstance(value, bytes) else (0, None)


def _number(precise: int | bytes | None) -> int | None:
    kind, value = _scalar(precise)
    if kind == _DECIMAL and isinstance(value, bytes):
        digits = dict(fields_of(value)).get(1)
        return int.from_bytes(digits, "big", signed=True) if isinstance(digits, bytes) else None
    return value - (1 << 64) if isinstance(value, int) and value >> 63 else value if isinstance(value, int) else None


def _text(value: int | bytes | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def _counts(text: str) -> tuple[int, int]:
    """Return the numbers of a pruning metric's text, which has them with three digits from 10,000 on."""
    found = _TOTAL.search(text)
    if found is None:
        return 0, 0
    return round(float(found[1]) * _UNITS[found[2]]), round(float(found[3]) * _UNITS[found[4]])
