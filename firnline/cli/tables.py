"""``firn tables``: what the lake's catalog holds."""

from __future__ import annotations

import sys

import click

from firnline.cli.options import FORMATS, OutputFormat, guarded, lake_option, settings_for, token_option

__all__ = ["tables"]


@click.command(short_help="List the lake's tables.")
@lake_option
@token_option
@click.option(
    "--format", "-f", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="Of the list."
)
@guarded
def tables(lake: str | None, token: str | None, form: OutputFormat) -> None:
    """List the lake's tables.

    \b
    Examples:
      firn tables
      firn tables --lake s3://bucket/lake --format json
    """
    import firnline
    from firnline.cli.output import Style, write_answer

    settings = settings_for(lake, token)
    style = Style(form, sys.stdout.isatty() and not settings.no_color, sys.stdout.isatty())
    with firnline.connect(settings=settings) as connection, connection.stream("SHOW TABLES") as stream:
        write_answer(stream, style, sys.stdout.buffer)
