"""``firn lookup``: rows of a table by their keys."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from firnline.cli.options import (
    FAILED,
    FORMATS,
    ROUTES,
    Duration,
    OutputFormat,
    guarded,
    lake_option,
    parse_value,
    settings_for,
    token_option,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from firnline.lookup import LookupResult
    from service.statement import Receipt, Route

__all__ = ["lookup"]

_SHOWN = 20


@click.command(short_help="Find rows of a table by their keys.")
@click.argument("table")
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@lake_option
@token_option
@click.option("--by", metavar="COLUMNS", help="The key's columns, by commas.  [default: primary key, or only index]")
@click.option("--columns", metavar="COLUMNS", help="Those that are wanted, by commas.  [default: all]")
@click.option(
    "--format", "-f", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="Of the answer."
)
@click.option("--route", type=click.Choice(ROUTES), default="auto", show_default=True, help="How the rows are found.")
@click.option("--timeout", "timeout_ms", type=Duration(), metavar="DURATION", help="Stop after 30s, 500ms, 2m.")
@guarded
def lookup(
    table: str,
    keys: tuple[str, ...],
    lake: str | None,
    token: str | None,
    by: str | None,
    columns: str | None,
    form: OutputFormat,
    route: Route,
    timeout_ms: int | None,
) -> None:
    """Show the rows of TABLE that have each KEY, in the order of the keys.

    A KEY that is JSON is taken as such, else as text; a key of several columns is a JSON array. A single - takes the
    keys from stdin, one a line. Keys that are not found are told on stderr, and the exit code is then 1.

    \b
    Examples:
      firn lookup trips 42 7
      firn lookup users '"007"' --by code --columns id,name
      firn lookup visits '["2026-01-31", "Bern"]' --by day,city
      cut -f1 ids.tsv | firn lookup trips - --format ndjson
    """
    import firnline
    from firnline.cli.output import Style, write_answer
    from firnline.result import ResultStream

    settings = settings_for(lake, token)
    style = Style(form, sys.stdout.isatty() and not settings.no_color, sys.stdout.isatty(), timing=sys.stdout.isatty())
    with firnline.connect(settings=settings) as connection:
        found = connection.lookup(
            table, _keys(keys), by=_names(by), columns=_names(columns), route=route, timeout_ms=timeout_ms
        )
        write_answer(ResultStream(_Held(found)), style, sys.stdout.buffer)
    if found.missing:
        _tell(found.missing)
        sys.exit(FAILED)


def _keys(texts: tuple[str, ...]) -> list[Any]:
    if texts == ("-",):
        texts = tuple(line for line in sys.stdin.read().splitlines() if line)
    return [parse_value(text) for text in texts]


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _tell(missing: list[Any]) -> None:
    shown = ", ".join(map(str, missing[:_SHOWN]))
    more = f", and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
    click.echo(f"not found: {shown}{more}", err=True)


class _Held:
    """An answer that is there already."""

    def __init__(self, found: LookupResult) -> None:
        self._found = found
        self._batches: Iterator[pa.RecordBatch] = iter(found.arrow().to_batches())

    @property
    def schema(self) -> pa.Schema:
        return self._found.schema

    def read(self) -> pa.RecordBatch | None:
        return next(self._batches, None)

    def read_all(self) -> list[pa.RecordBatch]:
        return list(self._batches)

    def receipt(self) -> Receipt:
        return self._found.receipt

    def close(self) -> None:
        """Nothing runs any more."""
