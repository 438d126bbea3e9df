"""The write path's benchmarks, side by side in one run: ``python -m benchmarks.write``.

Prints every section as it is measured, and at the end the goals that were met or MISSED. A full official run also
writes its part of ``docs/benchmarks.md``. Exits with 1 when a section failed to run.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.program import Program, run_program
from benchmarks.write_options import OFFICIAL_WRITES, SMOKE_WRITES

__all__ = ["SECTIONS", "main"]

SECTIONS = ("single", "clients", "bulk", "object", "contention", "tail", "size")

INTRODUCTION = """# Benchmarks of the write path

The last full run of `make bench-write` (`python -m benchmarks.write`), as it printed it. Every peer ran in that run, on
that machine and disk. `--only single,clients,bulk,object,contention,tail,size` runs some of it, `--quick` all of it on
tiny data.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    assert __doc__ is not None
    summary = __doc__.partition("\n")[0]
    program = Program("write", summary, SECTIONS, INTRODUCTION, OFFICIAL_WRITES, SMOKE_WRITES)
    return run_program(program, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
