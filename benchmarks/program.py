"""The command line of a program of benchmarks whose part of ``docs/benchmarks.md`` is its own."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.functions_options import FunctionsOptions
from benchmarks.lookup_options import LookupOptions
from benchmarks.machine import describe_machine
from benchmarks.page import with_part
from benchmarks.query import PAGE, page_of, run_sections
from benchmarks.write_options import WriteOptions

__all__ = ["Program", "run_program"]


@dataclass(frozen=True, slots=True)
class Program:
    """``python -m benchmarks.NAME``: its sections are the modules ``NAME_SECTION``, and its part of the page NAME.

    scales : scale factor of TPC-H → what a run of it is instead: the part of the page, its sections and introduction
    """

    name: str
    summary: str
    sections: tuple[str, ...]
    introduction: str
    official: WriteOptions | LookupOptions | FunctionsOptions
    smoke: WriteOptions | LookupOptions | FunctionsOptions
    scales: Mapping[str, tuple[str, tuple[str, ...], str]] = field(default_factory=dict)

    def scaled(self, scale: str) -> Program:
        """Return the program for a scale factor."""
        if scale not in self.scales:
            return self
        _part, sections, introduction = self.scales[scale]
        return replace(self, sections=sections, introduction=introduction)

    def part(self, scale: str) -> str:
        """Return the part of the page that a run of a scale factor writes."""
        return self.scales[scale][0] if scale in self.scales else self.name


def run_program(program: Program, arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    known = ", ".join(program.sections)
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{program.name}", description=program.summary)
    parser.add_argument("--only", help=f"comma-separated sections of {known}")
    parser.add_argument("--quick", action="store_true", help="a smoke run on tiny data; writes no page by itself")
    if isinstance(program.official, FunctionsOptions):
        parser.add_argument("--scale", help="scale factor of TPC-H, such as 10; past 1 each query runs once")
    parser.add_argument("--write", type=Path, help=f"where the page goes (a full official run: {PAGE})")
    asked = parser.parse_args(arguments)
    scale = getattr(asked, "scale", None) or ""
    program = program.scaled(scale)
    names = asked.only.split(",") if asked.only else list(program.sections)
    unknown = sorted(set(names) - set(program.sections))
    if unknown:
        parser.error(f"unknown sections {', '.join(unknown)}; choose from {known}")
    options = program.smoke if asked.quick else program.official
    if isinstance(options, FunctionsOptions) and scale:
        options = options.scaled(scale)
    machine = describe_machine()
    print("\n".join(machine) + "\n")
    sections = run_sections(names, options, prefix=f"{program.name}_")
    print("== Goals")
    print("\n".join(goal.verdict for section in sections for goal in section.goals))
    page = asked.write or (PAGE if options.official and names == list(program.sections) else None)
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        before = page.read_text() if page.exists() else ""
        page.write_text(with_part(before, program.part(scale), page_of(machine, sections, program.introduction)))
        print(f"written to {page}")
    return int(any(section.title.endswith(": failed") for section in sections))
