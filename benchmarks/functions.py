"""Statements as tasks of workers, side by side in one run: ``python -m benchmarks.functions``.

Prints every section as it is measured, and at the end the goals that were met or MISSED. A full official run also
writes its part of ``docs/benchmarks.md``; so does one of ``--scale 10``, which has another. Exits with 1 when a section
failed to run.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.functions_options import LARGE_SCALE, OFFICIAL_FUNCTIONS, SMOKE_FUNCTIONS
from benchmarks.program import Program, run_program

__all__ = ["SECTIONS", "main", "program"]

SECTIONS = ("start", "overhead", "coordinator", "cost", "tpch")
SCALED_SECTIONS = ("tpch",)
"""Those in which the size of the data matters."""

INTRODUCTION = """# Benchmarks of functions

The last full run of `make bench-functions` (`python -m benchmarks.functions`), as it printed it. Every place where
tasks run, and every other engine, ran in that run, on that machine and on the same files.
`--only start,overhead,coordinator,cost,tpch` runs some of it, `--quick` all of it on tiny data; `--scale 10`, on ten
times the data, is the next part.
On one machine all workers share its cores: what tasks cost is seen here, and not what more machines gain.
"""

SCALED_INTRODUCTION = """# Benchmarks of functions on ten times the data

The last full run of `python -m benchmarks.functions --scale 10`, as it printed it: TPC-H at scale factor 10, 3.8 GB of
Parquet files, made on the first run. What a task and a start cost does not depend on the data: see the part before.
"""


def program() -> Program:
    """Return what ``python -m benchmarks.functions`` runs."""
    assert __doc__ is not None
    scales = {LARGE_SCALE: ("functions-sf10", SCALED_SECTIONS, SCALED_INTRODUCTION)}
    return Program(
        "functions", __doc__.partition("\n")[0], SECTIONS, INTRODUCTION, OFFICIAL_FUNCTIONS, SMOKE_FUNCTIONS, scales
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    return run_program(program(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
