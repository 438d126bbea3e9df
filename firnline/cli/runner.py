"""Runs the statements of a script against a connection and writes their answers."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import click

from firnline.cli.output import Style, write_answer
from firnline.cli.progress import Progress
from firnline.cli.report import report
from firnline.cli.script import Piece, split
from firnline.connection import Connection
from firnline.transport import Params
from service.statement import Route
from storage.clock import Clock, SystemClock
from storage.errors import FirnlineError, SqlError

__all__ = ["Runner"]


@dataclass
class Runner:
    """Runs the statements of a script one by one and writes their answers."""

    connection: Connection
    style: Style
    out: BinaryIO
    params: Params = None
    timeout_ms: int | None = None
    max_rows: int | None = None
    route: Route = "auto"
    clock: Clock = field(default_factory=SystemClock)

    def run_script(self, text: str) -> bool:
        """Run all statements up to the first that fails, which is reported; tell whether none did."""
        try:
            pieces = split(text)
        except SqlError as error:
            self._report(error, Piece(text))
            return False
        return all(self.run(piece) for piece in pieces)

    def run(self, piece: Piece) -> bool:
        """Run one statement, report its error, and tell whether it succeeded."""
        terminal = sys.stderr if sys.stderr.isatty() else None
        try:
            with Progress(terminal, self.clock, self._told) as progress:
                limits: dict[str, Any] = {"timeout_ms": self.timeout_ms, "max_rows": self.max_rows, "route": self.route}
                with self.connection.stream(piece.text, self.params, **limits) as stream:
                    write_answer(stream, self.style, _Starting(self.out, progress))  # type: ignore[arg-type]
        except FirnlineError as error:
            self._report(error, piece)
            return False
        return True

    def _told(self) -> str:
        try:
            found = self.connection.progress()
        except FirnlineError:  # the statement's own error is shown, if it has one
            return ""
        return "" if found is None else str(found)

    def _report(self, error: FirnlineError, piece: Piece) -> None:
        self.out.flush()
        click.echo(report(error, piece, color=sys.stderr.isatty() and self.style.color), err=True)


@dataclass
class _Starting:
    """The output; its first byte takes the progress line away."""

    out: BinaryIO
    progress: Progress

    def write(self, data: bytes) -> None:
        self.progress.stop()
        self.out.write(data)

    def flush(self) -> None:
        self.out.flush()
