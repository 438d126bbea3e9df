"""``firn sql``: one statement, a script, or the shell."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from firnline.cli.options import (
    FAILED,
    FORMATS,
    ROUTES,
    Duration,
    OutputFormat,
    guarded,
    lake_option,
    parse_params,
    settings_for,
    token_option,
)

if TYPE_CHECKING:
    from service.statement import Route

__all__ = ["sql"]


@click.command(short_help="Run SQL: one statement, a script on stdin, or the interactive shell.")
@click.argument("statement", required=False)
@lake_option
@token_option
@click.option(
    "--format", "-f", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="Of the answer."
)
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Write the answer to a file.")
@click.option(
    "--param", "-p", "params", multiple=True, metavar="[NAME=]VALUE", help="A parameter: :NAME, or $1, $2, … ."
)
@click.option("--timeout", "timeout_ms", type=Duration(), metavar="DURATION", help="Stop after 30s, 500ms, 2m.")
@click.option("--max-rows", type=click.IntRange(min=1), help="Fail if the answer has more rows.")
@click.option(
    "--route", type=click.Choice(ROUTES), default="auto", show_default=True, help="How rows of pinned keys are found."
)
@click.option("--timing/--no-timing", default=None, help="Say what a table cost.  [default: on a terminal]")
@guarded
def sql(
    statement: str | None,
    lake: str | None,
    token: str | None,
    form: OutputFormat,
    output: Path | None,
    params: tuple[str, ...],
    timeout_ms: int | None,
    max_rows: int | None,
    route: Route,
    timing: bool | None,
) -> None:
    """Run STATEMENT, a script on stdin, or without either the interactive shell.

    A script is cut at its semicolons and ends at the first statement that fails.

    \b
    Examples:
      firn sql "SELECT * FROM delta('s3://bucket/orders') LIMIT 10"
      firn sql "SELECT * FROM trips WHERE day = :day" --param day=2024-05-01
      firn sql "SELECT * FROM trips" --format parquet --output trips.parquet
      firn sql --lake http://localhost:8080 --format csv < report.sql
      firn sql
    """
    import firnline
    from firnline.cli.output import Style
    from firnline.cli.runner import Runner

    settings = settings_for(lake, token)
    interactive = statement is None and sys.stdin.isatty()
    color = sys.stdout.isatty() and not settings.no_color
    style = Style(form, color, sys.stdout.isatty(), timing=sys.stdout.isatty() if timing is None else timing)
    with ExitStack() as stack:
        if interactive:
            from firnline.cli.shell import Shell

            connection = stack.enter_context(firnline.connect(settings=settings, isolated=True))
            Shell(Runner(connection, style, sys.stdout.buffer, None, timeout_ms, max_rows, route), settings).run()
            return
        script = statement if statement is not None else _stdin()
        bound = parse_params(params)
        connection = stack.enter_context(firnline.connect(settings=settings))
        out: BinaryIO = stack.enter_context(_opened(output)) if output else sys.stdout.buffer
        if not Runner(connection, style, out, bound, timeout_ms, max_rows, route).run_script(script):
            sys.exit(FAILED)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise click.UsageError(f"cannot write {path}: {error.strerror}") from None


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the script on stdin is not UTF-8: {error.reason} at byte {error.start}") from None
