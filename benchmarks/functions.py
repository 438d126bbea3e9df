"""Statements as tasks of workers, side by side in one run: ``python -m benchmarks.functions``.

Prints every section as it is measured, and at the end the goals that were met or MISSED. A full official run also
writes its part of ``docs/benchmarks.md``. Exits with 1 when a section failed to run.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.functions_options import OFFICIAL_FUNCTIONS, SMOKE_FUNCTIONS
from benchmarks.program import Program, run_program

__all__ = ["SECTIONS", "main"]

SECTIONS = ("start", "overhead", "coordinator", "cost", "tpch")

INTRODUCTION = """# Benchmarks of functions

The last full run of `make bench-functions` (`python -m benchmarks.functions`), as it printed it. Every place where
tasks run, and every other engine, ran in that run, on that machine and on the same files.
`--only start,overhead,coordinator,cost,tpch` runs some of it, `--quick` all of it on tiny data, `--scale 10` a few
queries on ten times the data (4 GB of disk).
On one machine all workers share its cores: what tasks cost is seen here, and not what more machines gain.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    assert __doc__ is not None
    summary = __doc__.partition("\n")[0]
    program = Program("functions", summary, SECTIONS, INTRODUCTION, OFFICIAL_FUNCTIONS, SMOKE_FUNCTIONS)
    return run_program(program, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
