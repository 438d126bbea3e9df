"""The write path's benchmarks, side by side in one run: ``python -m benchmarks.write``.

Prints every section as it is measured, and at the end the goals that were met or MISSED. A full official run also
writes its part of ``docs/benchmarks.md``. Exits with 1 when a section failed to run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.page import with_part
from benchmarks.query import PAGE, page_of, run_sections
from benchmarks.write_options import OFFICIAL_WRITES, SMOKE_WRITES

__all__ = ["SECTIONS", "main", "run_sections"]

SECTIONS = ("single", "clients", "bulk", "object", "contention", "tail", "size")

INTRODUCTION = """# Benchmarks of the write path

The last full run of `make bench-write` (`python -m benchmarks.write`), as it printed it. Every peer ran in that run, on
that machine and disk. `--only single,clients,bulk,object,contention,tail,size` runs some of it, `--quick` all of it on
tiny data.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.write", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help=f"comma-separated sections of {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="a smoke run on tiny data; writes no page by itself")
    parser.add_argument("--write", type=Path, help=f"where the page goes (a full official run: {PAGE})")
    asked = parser.parse_args(arguments)
    names = asked.only.split(",") if asked.only else list(SECTIONS)
    unknown = sorted(set(names) - set(SECTIONS))
    if unknown:
        parser.error(f"unknown sections {', '.join(unknown)}; choose from {', '.join(SECTIONS)}")
    options = SMOKE_WRITES if asked.quick else OFFICIAL_WRITES
    machine = describe_machine()
    print("\n".join(machine) + "\n")
    sections = run_sections(names, options, prefix="write_")
    print("== Goals")
    print("\n".join(goal.verdict for section in sections for goal in section.goals))
    page = asked.write or (PAGE if options.official and names == list(SECTIONS) else None)
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(
            with_part(page.read_text() if page.exists() else "", "write", page_of(machine, sections, INTRODUCTION))
        )
        print(f"written to {page}")
    return int(any(section.title.endswith(": failed") for section in sections))


if __name__ == "__main__":
    raise SystemExit(main())
