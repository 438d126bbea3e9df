"""``firn serve``: the HTTP endpoint."""

from __future__ import annotations

from dataclasses import replace

import click

from firnline.cli.options import Duration, guarded, lake_option, port_for, settings_for

__all__ = ["serve"]


@click.command(short_help="Serve the lake over HTTP.")
@lake_option
@click.option("--host", help="Address to bind to.  [default: $FIRN_HOST or 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one.  [default: $PORT, $FIRN_PORT or 8080]"
)
@click.option(
    "--allow",
    multiple=True,
    metavar="PREFIX",
    help="A folder or URL prefix that SQL may read, beside the lake; repeatable.",
)
@click.option("--require-tokens", is_flag=True, help="Ask for an API token on loopback too.")
@click.option("--timeout", "timeout_ms", type=Duration(), metavar="DURATION", help="Longest statement.  [default: 5m]")
@guarded
def serve(
    lake: str | None,
    host: str | None,
    port: int | None,
    allow: tuple[str, ...],
    require_tokens: bool,
    timeout_ms: int | None,
) -> None:
    """Serve the lake over HTTP until Ctrl-C; prints "listening on http://…" when ready.

    SQL reaches the lake and what --allow names, nothing else. An address that other machines can reach needs API
    tokens: see firn token create.

    \b
    Examples:
      firn serve
      firn serve --lake ./demo-lake --port 9000
      firn serve --allow s3://bucket/warehouse --allow /data
    """
    from firnline.opening import serve_settings
    from service.server import serve as run

    settings = settings_for(lake)
    settings = replace(
        settings,
        host=host if host is not None else settings.host,
        port=port_for(port, settings, settings.port),
        allow=(*settings.allow, *allow),
        require_tokens=require_tokens or settings.require_tokens,
        statement_timeout_ms=timeout_ms if timeout_ms is not None else settings.statement_timeout_ms,
    )
    run(serve_settings(settings))
