"""``firn history``: what happened to a table."""

from __future__ import annotations

import sys

import click

from firnline.cli.options import FORMATS, OutputFormat, guarded, lake_option, settings_for, token_option

__all__ = ["history"]


@click.command(short_help="Show what happened to a table.")
@click.argument("table")
@lake_option
@token_option
@click.option("--limit", "-n", type=click.IntRange(1), default=20, show_default=True, help="Newest commits to show.")
@click.option(
    "--format", "-f", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="Of the history."
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@guarded
def history(lake: str | None, token: str | None, table: str, limit: int, form: OutputFormat, as_json: bool) -> None:
    """Show the commits of TABLE, newest first: what each did, when, and how many rows it added and removed.

    A first row without a version stands for the rows that are in the log and not yet in the table.

    \b
    Examples:
      firn history sales.orders
      firn history sales.orders --limit 5 --json
    """
    import firnline
    from firnline.cli.output import Style, write_answer

    settings = settings_for(lake, token)
    style = Style("json" if as_json else form, sys.stdout.isatty() and not settings.no_color, sys.stdout.isatty())
    named = ".".join(_quoted(part) for part in table.split("."))
    with (
        firnline.connect(settings=settings) as connection,
        connection.stream(f"SHOW HISTORY FROM {named} LIMIT {limit}") as stream,
    ):
        write_answer(stream, style, sys.stdout.buffer)


def _quoted(part: str) -> str:
    return '"' + part.replace('"', '""') + '"'
