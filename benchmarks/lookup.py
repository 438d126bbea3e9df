"""Rows by their keys, side by side in one run: ``python -m benchmarks.lookup``.

Prints every section as it is measured, and at the end the goals that were met or MISSED. A full official run also
writes its part of ``docs/benchmarks.md``. Exits with 1 when a section failed to run.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.lookup_options import OFFICIAL_LOOKUPS, SMOKE_LOOKUPS
from benchmarks.program import Program, run_program

__all__ = ["SECTIONS", "main"]

SECTIONS = ("kernels", "tail", "store", "batch", "http", "local")

INTRODUCTION = """# Benchmarks of look-ups by key

The last full run of `make bench-lookup` (`python -m benchmarks.lookup`), as it printed it. Every peer ran in that run,
on that machine and on the same files; the store's own log counts requests and bytes.
`--only kernels,tail,store,batch,http,local` runs some of it, `--quick` all of it on tiny data.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    assert __doc__ is not None
    summary = __doc__.partition("\n")[0]
    program = Program("lookup", summary, SECTIONS, INTRODUCTION, OFFICIAL_LOOKUPS, SMOKE_LOOKUPS)
    return run_program(program, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
