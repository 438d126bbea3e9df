"""``firn worker``: runs tasks of others' queries."""

from __future__ import annotations

import sys

import click

from firnline.cli.options import guarded, lake_option, port_for, settings_for

__all__ = ["worker"]

_PORT = 8082


@click.command(short_help="Run pieces of others' queries.")
@lake_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind to.")
@click.option("--port", type=click.IntRange(0, 65535), help=f"Port; 0 takes a free one.  [default: $PORT or {_PORT}]")
@click.option(
    "--allow",
    multiple=True,
    metavar="PREFIX",
    help="A folder or URL prefix that tasks may read, beside the lake; repeatable.",
)
@click.option(
    "--concurrency", type=click.IntRange(1, 1000), default=2, show_default=True, help="Tasks that run at once."
)
@click.option("--listener", type=int, hidden=True)
@guarded
def worker(
    lake: str | None, host: str, port: int | None, allow: tuple[str, ...], concurrency: int, listener: int | None
) -> None:
    """Run tasks of others' queries until Ctrl-C; prints "listening on http://…" when ready.

    A server is told of its workers by FIRN_FUNCTIONS=http://…, and signs tasks with FIRN_TASK_SECRET, which must be the
    same here. A worker keeps nothing: start and stop as many as you like. Tasks reach the lake and what --allow names.

    \b
    Examples:
      FIRN_TASK_SECRET=… firn worker --lake s3://bucket/lake
      FIRN_TASK_SECRET=… firn worker --lake /data/lake --host 0.0.0.0 --port 9000 --concurrency 4
    """
    from firnline.opening import task_server_settings
    from service.task_server import serve_tasks, start_anew

    settings = settings_for(lake)
    served = task_server_settings(settings, host, port_for(port, settings, _PORT), allow, concurrency, listener)
    again = serve_tasks(served)
    if again is not None:
        start_anew(again, sys.orig_argv[1:])
