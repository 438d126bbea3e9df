"""The group ``firn`` and its commands."""

from __future__ import annotations

from typing import Any

import click

from firnline.cli.check import check
from firnline.cli.compact import compact
from firnline.cli.demo import demo
from firnline.cli.history import history
from firnline.cli.import_ import import_
from firnline.cli.lookup import lookup
from firnline.cli.serve import serve
from firnline.cli.sql import sql
from firnline.cli.tables import tables
from firnline.cli.token import token
from firnline.cli.wal import wal
from firnline.cli.worker import worker

__all__ = ["firn"]


def _version(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
    if not value or ctx.resilient_parsing:
        return
    import firnline

    click.echo(f"firn {firnline.__version__}")
    ctx.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def firn() -> None:
    """SQL over Parquet, Delta and Iceberg: in this process, or served over HTTP.

    \b
    Examples:
      firn demo                                                 the guided first minute
      firn sql "SELECT count(*) FROM parquet('trips/*.parquet')"
      firn sql                                                  an interactive shell
      firn serve                                                the HTTP endpoint
    """


for _command in (sql, lookup, import_, check, serve, wal, worker, compact, tables, history, token, demo):
    firn.add_command(_command)
