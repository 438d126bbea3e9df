"""What a benchmark found: tables, goals with a verdict, and both as text and as Markdown.

A goal is met or MISSED by its numbers alone; a goal that could not be measured is MISSED.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Goal", "Section", "Table", "markdown_of", "text_of"]


@dataclass(frozen=True, slots=True)
class Goal:
    """A promise: ``measured`` is at most ``limit``. ``measured`` is None when it could not be measured."""

    name: str
    measured: float | None
    limit: float
    unit: str = ""
    official: bool = True
    """False for a smoke run, whose data are too small for the number to mean anything."""
    at_least: bool = False
    """The other way round: ``measured`` is at least ``limit``."""

    @property
    def met(self) -> bool:
        """Whether the number is there and on the right side of its limit."""
        if self.measured is None:
            return False
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    @property
    def verdict(self) -> str:
        """The goal, its number and ``met`` or ``MISSED``, as one line."""
        found = "not measured" if self.measured is None else _number(self.measured) + self.unit
        sign = "≥" if self.at_least else "≤"
        line = f"{self.name}: {found}, goal {sign} {_number(self.limit)}{self.unit}: {'met' if self.met else 'MISSED'}"
        return line if self.official else line + " (smoke run: not an official number)"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a header; the first column is a name and the others are numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One benchmark's findings.

    facts : what was measured and how, one sentence each
    notes : what a reader should know of the numbers
    """

    name: str
    title: str
    facts: Sequence[str] = ()
    tables: Sequence[Table] = ()
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def text_of(section: Section) -> str:
    """Render a section for a terminal."""
    lines = [f"== {section.title}", *section.facts]
    for table in section.tables:
        lines += ["", *([table.title] if table.title else []), *_aligned(table)]
    lines += ["", *(f"  {note}" for note in section.notes)] if section.notes else []
    lines += ["", *(f"→ {goal.verdict}" for goal in section.goals)] if section.goals else []
    return "\n".join(lines) + "\n"


def markdown_of(section: Section) -> str:
    """Render a section for the documentation."""
    parts = [f"## {section.title}", *section.facts]
    for table in section.tables:
        parts += [f"**{table.title}**"] if table.title else []
        rule = ["---", *["---:"] * (len(table.header) - 1)]
        parts.append("\n".join(_row(row) for row in [table.header, rule, *table.rows]))
    if section.notes:
        parts.append("\n".join(f"* {note}" for note in section.notes))
    if section.goals:
        parts.append("\n".join(f"* {_marked(goal)}" for goal in section.goals))
    return "\n\n".join(parts) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _marked(goal: Goal) -> str:
    return goal.verdict.replace(": met", ": **met**").replace(": MISSED", ": **MISSED**")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _aligned(table: Table) -> list[str]:
    widths = [max(len(row[column]) for row in [table.header, *table.rows]) for column in range(len(table.header))]
    lines = []
    for row in [table.header, *table.rows]:
        name, *numbers = row
        cells = [name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines
