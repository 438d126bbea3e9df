"""The read path's benchmarks, side by side in one run: ``python -m benchmarks.query``.

Prints every section as it is measured, and at the end the goals that were met or MISSED. A full official run also
writes ``docs/benchmarks.md``. Exits with 1 when a section failed to run; a missed goal is a finding, not a failure.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from benchmarks.functions_options import FunctionsOptions
from benchmarks.lookup_options import LookupOptions
from benchmarks.machine import REPOSITORY, describe_machine
from benchmarks.options import OFFICIAL, SMOKE, Options
from benchmarks.page import with_part
from benchmarks.report import Goal, Section, markdown_of, text_of
from benchmarks.write_options import WriteOptions

__all__ = ["SECTIONS", "main", "page_of", "run_sections"]

SECTIONS = ("tpch", "select1", "planning", "remote", "cold", "memory")
PAGE = REPOSITORY / "docs" / "benchmarks.md"

INTRODUCTION = """# Benchmarks

The last full run of `make bench-query` (`uv run --all-extras --group bench python -m benchmarks.query`), as it printed
it. Every peer ran in that run, on that machine and on the same files; ratios carry further than times.
A goal that was missed says so.

`--only tpch,select1,planning,remote,cold,memory` runs some of it, `--quick` all of it on tiny data in two minutes (its
numbers mean nothing), `--scale` and `--repeats` change the sizes. Generated data lie in `build/` and are used again.
"""


def run_sections(
    names: Sequence[str],
    options: Options | WriteOptions | LookupOptions | FunctionsOptions,
    show: Callable[[str], None] = print,
    prefix: str = "",
) -> list[Section]:
    """Measure the named sections one after another; one that fails becomes a section that says so, with its goal
    missed, and the others still run. A section is a module of that name, behind ``prefix``."""
    options.build.mkdir(parents=True, exist_ok=True)
    found = []
    for name in names:
        started = time.perf_counter()
        try:
            section: Section = getattr(import_module(f"benchmarks.{prefix}{name}"), f"measure_{name}")(options)
        except Exception as error:
            traceback.print_exc()
            failed = Goal("the benchmark itself runs", None, 0, official=options.official)
            section = Section(name, f"{name}: failed", goals=[failed], notes=[f"{type(error).__name__}: {error}"])
        found.append(section)
        show(text_of(section))
        show(f"({name}: {time.perf_counter() - started:.0f} s)\n")
    return found


def page_of(machine: Sequence[str], sections: Sequence[Section], introduction: str = INTRODUCTION) -> str:
    """Return a run's part of the documentation's page."""
    goals = [goal for section in sections for goal in section.goals]
    missed = [goal for goal in goals if not goal.met]
    summary = [f"{len(goals) - len(missed)} of {len(goals)} goals met."]
    summary += [f"* MISSED: {goal.verdict}" for goal in missed]
    parts = [introduction, "\n".join(f"* {line}" for line in machine), "## Goals", "\n".join(summary)]
    return "\n\n".join(part.strip() for part in parts) + "\n\n" + "\n".join(map(markdown_of, sections))


def _summary(sections: Sequence[Section]) -> str:
    lines = ["== Goals"]
    lines += [goal.verdict for section in sections for goal in section.goals]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.query", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help=f"comma-separated sections of {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="a smoke run on tiny data; writes no page by itself")
    parser.add_argument("--scale", help="TPC-H scale factor (official: 1)")
    parser.add_argument("--repeats", type=int, help="timed runs after a warm-up (official: 5)")
    parser.add_argument("--write", type=Path, help=f"where the page goes (a full official run: {PAGE})")
    asked = parser.parse_args(arguments)
    names = asked.only.split(",") if asked.only else list(SECTIONS)
    unknown = sorted(set(names) - set(SECTIONS))
    if unknown:
        parser.error(f"unknown sections {', '.join(unknown)}; choose from {', '.join(SECTIONS)}")
    options = _options(asked)
    machine = describe_machine()
    print("\n".join(machine) + "\n")
    sections = run_sections(names, options)
    print(_summary(sections))
    page = asked.write or (PAGE if options.official and names == list(SECTIONS) else None)
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(with_part(page.read_text() if page.exists() else "", "read", page_of(machine, sections)))
        print(f"written to {page}")
    return int(any(section.title.endswith(": failed") for section in sections))


def _options(asked: argparse.Namespace) -> Options:
    options = SMOKE if asked.quick else OFFICIAL
    changes = {key: value for key in ("scale", "repeats") if (value := getattr(asked, key)) is not None}
    official = options.official and changes.get("scale", "1") == "1" and changes.get("repeats", 5) >= 5
    return replace(options, **changes, official=official)


if __name__ == "__main__":
    raise SystemExit(main())
