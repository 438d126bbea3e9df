"""``firn import``: files into a table."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from firnline.cli.options import guarded, lake_option, settings_for, token_option

__all__ = ["import_"]


@click.command("import", short_help="Bring files into a table.")
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--into", "table", required=True, metavar="[NAMESPACE.]TABLE", help="The table that gets the rows.")
@lake_option
@token_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "json", "ndjson", "parquet", "arrow"]),
    help="Of the files.  [default: by their names]",
)
@click.option("--delimiter", metavar="CHAR", help="Of a CSV.  [default: a comma; a tab for .tsv]")
@click.option("--null", default="", metavar="TEXT", help="The CSV cell that is null.  [default: nothing]")
@click.option(
    "--on-conflict",
    type=click.Choice(["update", "nothing", "error"]),
    help="What becomes of a row whose primary key is there.  [default: update]",
)
@click.option("--create", is_flag=True, help="Make the table, with the first file's columns, if there is none.")
@click.option(
    "--using", type=click.Choice(["delta", "iceberg"]), default="delta", show_default=True, help="With --create."
)
@click.option("--primary-key", metavar="COLUMN,…", help="With --create.")
@click.option("--batch-rows", type=click.IntRange(min=1), default=None, help="Most rows stored at once.")
@click.option("--ack", type=click.Choice(["object", "fsync"]), help="Where rows are before they count as stored.")
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="At a wrong row: stop, or leave it out.",
)
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="CSV of the rows that were left out.")
@click.option("--json", "as_json", is_flag=True, help="Say what was done as JSON on stdout.")
@click.option("--progress/--no-progress", default=None, help="Show how far it is.  [default: on a terminal]")
@guarded
def import_(files: tuple[str, ...], table: str, lake: str | None, token: str | None, **options: Any) -> None:
    """Bring the rows of FILE… into a table; - is standard input, and patterns such as 'data/*.csv' may be quoted.

    CSV, JSON, NDJSON, Parquet and Arrow, by the files' names; .gz and .zst are unpacked. Every value is checked against
    the table first. Rows are durable a block at a time: an import that was interrupted and is run again within 15
    minutes, with the same options, goes on where it stopped and stores nothing twice.

    \b
    Examples:
      firn import trips.csv --into trips --create
      firn import 'events/*.ndjson.gz' --into logs.events --on-error skip --report wrong.csv
      cat rows.csv | firn import - --format csv --into trips --lake http://localhost:8080
    """
    from firnline.cli.import_run import run_import

    settings = settings_for(lake, token)
    done, error = run_import(settings, files, table, options)
    if options["as_json"]:
        facts = asdict(done) | ({"error": error.to_wire()} if error else {})
        click.echo(json.dumps(facts, default=str))
    if error is not None:
        raise error
    if not done.complete:
        sys.exit(130)
