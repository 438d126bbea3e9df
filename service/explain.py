"""What EXPLAIN says of tables before the engine's own plan: versions, pruning, and which files read slowly and why."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from functions.scan import TableScan
from functions.tail import TableTail

__all__ = ["describe_scans", "explained", "with_tables"]


def describe_scans(scans: Mapping[str, TableScan]) -> str:
    """Return one line for each table."""
    return "\n".join(f"{name}: {_describe(scan)}" for name, scan in scans.items())


def _describe(scan: TableScan) -> str:
    snapshot = scan.snapshot
    parts = [
        f"{snapshot.format} version={snapshot.version}",
        f"files={scan.n_scanned} of {scan.n_files} ({scan.n_files - scan.n_scanned} pruned)",
        f"native_scans={scan.n_native_scans}",
    ]
    if scan.n_slow:
        reasons = ", ".join(f"{count} for {reason}" for reason, count in scan.slow_reasons.items())
        parts.append(f"merge_on_read={scan.n_slow} files ({reasons})")
    if scan.tail is not None:
        parts.append(_describe_tail(scan.tail))
    if scan.route:
        parts.append(f"route=({scan.route})")
    return " ".join([*parts, f"location={snapshot.location}"])


def _describe_tail(tail: TableTail) -> str:
    if tail.is_empty:
        return f"log=nothing new before {tail.limit}"
    keys = f" keys={tail.n_keys}" if tail.keys is not None else ""
    return f"log=[{tail.start}, {tail.limit}) rows={tail.n_rows}{keys}"


def with_tables(schema: pa.Schema, scans: Mapping[str, TableScan], tasks: str = "") -> pa.RecordBatch:
    """Return the rows that go before an EXPLAIN's own rows, whose schema is (plan_type, plan)."""
    return explained(schema, {"tables": describe_scans(scans)} | ({"tasks": tasks} if tasks else {}))


def explained(schema: pa.Schema, rows: Mapping[str, str]) -> pa.RecordBatch:
    """Return rows of an EXPLAIN: type of plan → plan."""
    columns = [pa.array(list(rows), schema.field(0).type), pa.array(list(rows.values()), schema.field(1).type)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
