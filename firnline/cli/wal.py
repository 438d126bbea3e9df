"""``firn wal``: the log service."""

from __future__ import annotations

from dataclasses import replace

import click

from firnline.cli.options import guarded, lake_option, settings_for

__all__ = ["wal"]

_PORT = 8081


def _shards(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    numbers = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() and len(part) < 4 for part in numbers):
        raise click.BadParameter("write numbers such as 0,1")
    return tuple(sorted({int(part) for part in numbers}))


@click.command(short_help="Run the log service.")
@lake_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind to.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=_PORT, show_default=True, help="Port; 0 takes a free one."
)
@click.option("--shards", callback=_shards, metavar="N,…", help="Which logs to own.  [default: all of the lake]")
@click.option("--data-dir", metavar="DIR", help="Local folder of the journals.  [default: $FIRN_LOG_JOURNAL]")
@click.option("--ack", type=click.Choice(["object", "fsync"]), help="When a row is acknowledged.")
@guarded
def wal(
    lake: str | None, host: str, port: int, shards: tuple[int, ...] | None, data_dir: str | None, ack: str | None
) -> None:
    """Own the lake's logs and take rows for everyone else, until Ctrl-C; prints "listening on http://…" when ready.

    Other processes find it through the lake's catalog and need no setting. A second one waits and takes over when the
    first is gone. Rows that were acknowledged by fsync are on this machine's disk, in --data-dir, until they are in
    the object store a moment later.

    \b
    Examples:
      firn wal --lake ./lake
      firn wal --lake s3://bucket/lake --data-dir /var/lib/firn --ack fsync
      firn wal --lake s3://bucket/lake --shards 0,1 --host 0.0.0.0
    """
    from firnline.opening import log_server_settings
    from service.log.server import serve_log

    settings = settings_for(lake)
    settings = replace(settings, log_journal=data_dir or settings.log_journal, log_ack=ack or settings.log_ack)
    serve_log(log_server_settings(settings, host, port, shards))
