"""What the engine asked of object stores: its clients count nothing, so it is reckoned from a plan's metrics.

Of Parquet files it reads, one ranged GET each: for every row group that its statistics and filters left, the wanted
columns, in as many requests as lie more than `COALESCE_BYTES` apart; where filters are evaluated while it decodes,
first those of the first condition, then what the next ones need beside them, and at last the rest, as long as rows are
left; the footer, the first time in a session, in two; the page index of a file that has one, where a filter may use it,
each time. `make bench-functions` holds the sum to a store's log.

Source: ``merge_ranges`` of the crate object_store, ``InMemoryRowGroup::fetch_ranges`` of arrow-rs' parquet.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, MutableSet, Sequence
from typing import Any

from datafusion import ExecutionPlan, SessionContext

from functions.engine_scans import FooterOf, Scan, scans_of, sizes_of_scan

__all__ = ["COALESCE_BYTES", "engine_gets", "planning_gets", "run_gets"]

COALESCE_BYTES = 1 << 20
"""The engine's store reads ranges that are at most so far apart as one."""
FOOTER_GETS, NEW_FILE_GETS = 2, 3
"""The footer's length, then the footer: a plan that came as bytes says no size to try with. A file that is planned for
the first time: its size twice, and the footer."""
_PREDICATE = re.compile(
    r", predicate=(.*?)(?:, (?:dynamic_rg_pruning|pruning_predicate|required_guarantees)=|$)", re.DOTALL
)
_COLUMN = re.compile(r"(\w+)@\d+")
_TOTAL = re.compile(r"([\d.]+) ?([KMB]?) total → ([\d.]+) ?([KMB]?) matched")
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9}
_NEARLY = 0.85


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


def run_gets(plan: ExecutionPlan, context: SessionContext, footer_of: FooterOf | None = None) -> int:
    """Return what `engine_gets` does for a plan of this process, whose planning read the footers; 0 if the plan cannot
    be encoded: then nothing of it is native."""
    try:
        scans = scans_of(plan.to_bytes(context))
        if footer_of is not None:
            scans = [sizes_of_scan(scan, footer_of) for scan in scans]
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
    gets = 0
    if wanted and kept:
        steps = _steps(name, scan)
        groups = _sizes(scan, frozenset().union(*steps), wanted / kept, total)
        exact = bool(scan.sizes) and not scan.paged
        shares = _shares(steps, groups, wanted / kept, _rows_left(metrics) / kept, exact=exact)
        unread = _unread(steps, groups, wanted / kept) if scan.paged else 0.0
        ranges = [
            sum(_ranges(step, sizes, unread, scan.dictionaries) for sizes in groups) / len(groups) for step in steps
        ]
        gets = round(kept * sum(share * each for share, each in zip(shares, ranges, strict=True)))
    if footers is not None:
        # Parts of a file that are opened at once each read its footer.
        gets += FOOTER_GETS * sum(path not in footers for path in scan.paths) + pages
        footers |= set(scan.paths)
    return gets


def _steps(name: str, scan: Scan) -> list[frozenset[str]]:
    """Return the columns that are read of a row group, step by step."""
    filtered = _PREDICATE.search(name)
    known = {column for column, _share in scan.columns}
    projected = known if scan.read is None else set(scan.read)
    conditions = _conjuncts(filtered[1]) if scan.late and filtered else []
    steps: list[frozenset[str]] = []
    seen: set[str] = set()
    for columns in [*(set(_COLUMN.findall(each)) & known for each in conditions), projected]:
        if columns - seen:
            steps.append(frozenset(columns - seen))
            seen |= columns
    return steps or [frozenset()]


def _conjuncts(text: str) -> list[str]:
    """Return the conditions that a predicate's text joins by AND."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([") - (letter in ")]")
        if not depth and text.startswith(" AND ", place):
            parts.append(text[start:place])
            start = place + 5
    return [*parts, text[start:]]


def _sizes(scan: Scan, wanted: Collection[str], wanted_bytes: float, n_groups: int) -> list[dict[str, float]]:
    """Return for some row groups the bytes of each column, of which ``wanted_bytes`` are known to have been read."""
    names = [name for name, _share in scan.columns]
    if scan.sizes:
        return [dict(zip(names, map(float, sizes), strict=True)) for sizes in scan.sizes]
    unwanted_bytes = scan.n_bytes / max(1, n_groups) - wanted_bytes
    inside = sum(share for name, share in scan.columns if name in wanted) or 1.0
    outside = sum(share for name, share in scan.columns if name not in wanted) or 1.0
    return [{
        name: share / inside * wanted_bytes if name in wanted else share / outside * unwanted_bytes
        for name, share in scan.columns
    }]  # fmt: skip


def _mean(columns: Collection[str], groups: Sequence[Mapping[str, float]]) -> float:
    return sum(sizes[name] for sizes in groups for name in columns) / len(groups)


def _shares(
    steps: Sequence[frozenset[str]], groups: Sequence[Mapping[str, float]], wanted_bytes: float, rows_left: float, *,
    exact: bool,
) -> list[float]:  # fmt: skip
    """Return for each step the share of the row groups of which it is done: all for the first one, for the others those
    where conditions left rows. These are as many as the bytes say, where sizes are ``exact``; else, of rows that lie
    anywhere, those that got one."""
    first, *others = (_mean(step, groups) for step in steps)
    rest = sum(others)
    share = -math.expm1(-rows_left)
    if exact and rest:
        by_bytes = min(1.0, max(0.0, (wanted_bytes - first) / rest))
        share = max(share, by_bytes) if by_bytes > _NEARLY else by_bytes  # sizes are means
    return [1.0, *(share for _ in others)]


def _rows_left(metrics: Any) -> float:
    return float(metrics.sum_by_name("pushdown_rows_matched") or 0)


def _unread(steps: Sequence[frozenset[str]], groups: Sequence[Mapping[str, float]], wanted_bytes: float) -> float:
    """Return which share of the wanted columns' pages was left out."""
    whole = sum(_mean(step, groups) for step in steps)
    return max(0.0, 1 - wanted_bytes / whole) if whole else 0.0


def _ranges(wanted: Collection[str], sizes: Mapping[str, float], unread: float, dictionaries: Collection[str]) -> int:
    """Return how many requests some columns of a row group take. What a column begins with, its dictionary, is read."""
    ranges, gap = 1, None
    for column, size in sizes.items():
        if column in wanted:
            # Pages that are left out lie before and behind those that are read, one as often as the other.
            skipped = unread * size / 2
            if column in dictionaries:
                ranges += (gap is not None and gap > COALESCE_BYTES) + (skipped > COALESCE_BYTES)
            else:
                ranges += gap is not None and gap + skipped > COALESCE_BYTES
            gap = skipped
        elif gap is not None:
            gap += size
    return ranges


def _counts(text: str) -> tuple[int, int]:
    """Return the numbers of a pruning metric's text, which has them with three digits from 10,000 on."""
    found = _TOTAL.search(text)
    if found is None:
        return 0, 0
    return round(float(found[1]) * _UNITS[found[2]]), round(float(found[3]) * _UNITS[found[4]])
