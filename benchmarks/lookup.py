"""Rows by their keys, side by side in one run: ``python -m benchmarks.lookup``.

Prints every section as it is measured, and at the end the goals that were met or MISSED. A full official run also
writes its part of ``docs/benchmarks.md``. Exits with 1 when a section failed to run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.lookup_options import OFFICIAL_LOOKUPS, SMOKE_LOOKUPS
from benchmarks.machine import describe_machine
from benchmarks.page import with_part
from benchmarks.query import PAGE, page_of, run_sections

__all__ = ["SECTIONS", "main"]

SECTIONS = ("kernels", "tail", "store", "batch", "http", "local")

INTRODUCTION = """# Benchmarks of look-ups by key

The last full run of `make bench-lookup` (`python -m benchmarks.lookup`), as it printed it. Every peer ran in that run,
on that machine and on the same files; the store's own log counts requests and bytes.
`--only kernels,tail,store,batch,http,local` runs some of it, `--quick` all of it on tiny data.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lookup", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help=f"comma-separated sections of {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="a smoke run on tiny data; writes no page by itself")
    parser.add_argument("--write", type=Path, help=f"where the page goes (a full official run: {PAGE})")
    asked = parser.parse_args(arguments)
    names = asked.only.split(",") if asked.only else list(SECTIONS)
    unknown = sorted(set(names) - set(SECTIONS))
    if unknown:
        parser.error(f"unknown sections {', '.join(unknown)}; choose from {', '.join(SECTIONS)}")
    options = SMOKE_LOOKUPS if asked.quick else OFFICIAL_LOOKUPS
    machine = describe_machine()
    print("\n".join(machine) + "\n")
    sections = run_sections(names, options, prefix="lookup_")
    print("== Goals")
    print("\n".join(goal.verdict for section in sections for goal in section.goals))
    page = asked.write or (PAGE if options.official and names == list(SECTIONS) else None)
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(
            with_part(page.read_text() if page.exists() else "", "lookup", page_of(machine, sections, INTRODUCTION))
        )
        print(f"written to {page}")
    return int(any(section.title.endswith(": failed") for section in sections))


if __name__ == "__main__":
    raise SystemExit(main())
