"""The interactive shell: statements over several lines, history, completion, backslash commands.

Ctrl-C clears what is typed or cancels what runs; only Ctrl-D and ``\\q`` leave.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import cast

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.filters import completion_is_selected, has_completions
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.shortcuts import CompleteStyle
from pygments.lexers.sql import PostgresLexer

from firnline.cli.completion import Names, SqlCompleter
from firnline.cli.meta import HELP, Meta, parse_meta, quoted_name
from firnline.cli.options import FORMATS, OutputFormat
from firnline.cli.output import Style
from firnline.cli.report import report
from firnline.cli.runner import Runner
from firnline.cli.script import Piece, is_complete, split
from firnline.settings import Settings
from firnline.show import Expanded
from storage.errors import FirnlineError, InvalidError, SqlError

__all__ = ["Shell"]

_ROWS_SHOWN = 500
_SHELL_FORMATS: tuple[OutputFormat, ...] = tuple(form for form in FORMATS if form not in ("arrow", "parquet"))
_CHANGES = ("create", "drop", "alter")


class Shell:
    """Reads statements from a terminal and runs them one by one."""

    def __init__(self, runner: Runner, settings: Settings) -> None:
        self._runner = runner
        self._style: Style = runner.style
        self._style.rows_max = _ROWS_SHOWN
        self._names = Names(runner.connection)
        self._session: PromptSession[str] = PromptSession(
            multiline=True,
            history=_history(settings),
            lexer=PygmentsLexer(PostgresLexer),
            completer=SqlCompleter(self._names),
            complete_while_typing=False,
            complete_style=CompleteStyle.COLUMN,
            reserve_space_for_menu=6,
            key_bindings=_bindings(),
            editing_mode=EditingMode.EMACS,
            color_depth=ColorDepth.DEPTH_1_BIT if settings.no_color else None,
            prompt_continuation=lambda width, _line, _soft: "-> ".rjust(width),
            enable_history_search=True,
        )

    def run(self) -> None:
        """Read and run until the end of the input."""
        click.echo(f"firn on {self._runner.connection.lake} — statements end with ;   \\? helps   \\q leaves")
        self._names.refresh()
        while True:
            try:
                text = self._session.prompt("firn> ")
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if not self._run(text.strip()):
                return

    def _run(self, text: str) -> bool:
        """Run one input; False ends the shell."""
        try:
            if text.startswith("\\"):
                return self._meta(parse_meta(text))
            self._script(text)
        except FirnlineError as error:
            self._report(error)
        except KeyboardInterrupt:
            click.echo("cancelled", err=True)
        return True

    def _script(self, text: str) -> None:
        try:
            pieces = split(text)
        except SqlError as error:
            self._report(error, Piece(text))
            return
        for piece in pieces:
            if not self._runner.run(piece):
                break
            click.echo()
            if piece.text.lower().startswith(_CHANGES):
                self._names.refresh()

    def _meta(self, meta: Meta) -> bool:
        style = self._style
        match meta.name:
            case r"\q":
                return False
            case r"\?":
                click.echo(HELP)
            case r"\d" if meta.argument:
                if self._runner.run(Piece(f"DESCRIBE {quoted_name(meta.argument)}")):
                    self._tell_indexes(quoted_name(meta.argument))
            case r"\d":
                self._runner.run(Piece("SHOW TABLES"))
            case r"\dn":
                self._runner.run(Piece("SHOW SCHEMAS"))
            case r"\di":
                table = f" FROM {quoted_name(meta.argument)}" if meta.argument else ""
                self._runner.run(Piece(f"SHOW INDEXES{table}"))
            case r"\timing":
                style.timing = _choice(meta, ("on", "off"), "off" if style.timing else "on") == "on"
                click.echo(f"timing is {'on' if style.timing else 'off'}")
            case r"\format":
                style.format = cast(OutputFormat, _choice(meta, _SHELL_FORMATS, style.format))
                click.echo(f"format is {style.format}")
            case r"\x":
                following = "auto" if style.expanded == "on" else "on"
                style.expanded = cast(Expanded, _choice(meta, ("on", "off", "auto"), following))
                click.echo(f"one value a line is {style.expanded}")
            case r"\i":
                self._script(_script_of(meta.argument))
        return True

    def _tell_indexes(self, table: str) -> None:
        """Name the table's indexes; of what can have none, as a view, nothing is said."""
        with suppress(FirnlineError):
            for row in self._runner.connection.sql(f"SHOW INDEXES FROM {table}").to_pylist():
                click.echo(f"index {row['name']} ({row['columns']}): {row['kind']}, {row['status']}")

    def _report(self, error: FirnlineError, piece: Piece | None = None) -> None:
        click.echo(report(error, piece, color=self._style.color), err=True)


def _choice(meta: Meta, choices: tuple[str, ...], default: str) -> str:
    if not meta.argument:
        return default
    if meta.argument not in choices:
        raise InvalidError(f"{meta.name} takes {', '.join(choices)}", got=meta.argument)
    return meta.argument


def _script_of(path: str) -> str:
    try:
        return Path(path).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"the script cannot be read: {error}", path=path) from None


def _history(settings: Settings) -> History:
    """Return the history of this person's shells; one that cannot be kept is kept in memory."""
    if settings.history == "":
        return InMemoryHistory()
    path = Path(settings.history or Path.home() / ".local" / "state" / "firnline" / "history")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError as error:
        print(f"the history is not kept: {error}", file=sys.stderr)
        return InMemoryHistory()
    return FileHistory(str(path))


def _bindings() -> KeyBindings:
    """Enter runs a complete statement or a backslash command, and else begins a new line."""
    bindings = KeyBindings()

    @bindings.add("enter", filter=~(has_completions & completion_is_selected))
    def enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        text = buffer.text.strip()
        at_end = not buffer.document.text_after_cursor.strip()
        if not text or (at_end and (text.startswith("\\") or is_complete(text))):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    @bindings.add("enter", filter=has_completions & completion_is_selected)
    def accept(event: KeyPressEvent) -> None:
        event.current_buffer.complete_state = None

    return bindings
