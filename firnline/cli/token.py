"""``firn token``: API tokens of a lake, for servers that others can reach."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from firnline.cli.options import Duration, guarded, lake_option, settings_for

if TYPE_CHECKING:
    from service.statement import Role

__all__ = ["token"]

T = TypeVar("T")
_ROLES: tuple[Role, ...] = ("reader", "writer", "admin")


@click.group(short_help="Create, list and revoke API tokens.")
def token() -> None:
    """API tokens: what a client sends to a server as "Authorization: Bearer …". The lake stores only their hashes."""


@token.command(short_help="Create a token and show it, once.")
@click.option("--role", type=click.Choice(_ROLES), required=True, help="What its holder may do.")
@click.option("--name", help="What it is for.  [default: the role]")
@click.option(
    "--expires", "expires_ms", type=Duration(), metavar="DURATION", help="Ends after 12h, 30m, …; else never."
)
@lake_option
@guarded
def create(role: Role, name: str | None, expires_ms: int | None, lake: str | None) -> None:
    """Create a token and print it on stdout. It cannot be shown again.

    \b
    Examples:
      firn token create --role admin
      FIRN_TOKEN=$(firn token create --role reader --name dashboard --expires 720h)
    """
    from catalog.tokens import create_token

    expires_s = expires_ms / 1000 if expires_ms else None
    token_id, secret = _with_catalog(lake, lambda kv, clock: create_token(kv, clock, role, name or role, expires_s))
    click.echo(f"created token {token_id} with role {role}; keep it, it is not shown again:", err=True)
    click.echo(secret)


@token.command("list", short_help="List the tokens.")
@lake_option
@guarded
def list_(lake: str | None) -> None:
    """List the lake's tokens, without their secrets."""
    import pyarrow as pa

    from catalog.tokens import list_tokens
    from firnline.show import render

    found = _with_catalog(lake, lambda kv, _clock: list_tokens(kv))
    rows = {
        "token_id": [each.token_id for each in found],
        "role": [each.role for each in found],
        "name": [each.name for each in found],
        "created": [_moment(each.created_ms) for each in found],
        "expires": [_moment(each.expires_ms) for each in found],
    }
    click.echo(render(pa.table(rows), color=sys.stdout.isatty()) if found else "no tokens")


@token.command(short_help="Revoke a token.")
@click.argument("token_id")
@lake_option
@guarded
def revoke(token_id: str, lake: str | None) -> None:
    """Revoke a token by its id; servers forget it within seconds.

    \b
    Example:
      firn token revoke 0123456789abcdef
    """
    from catalog.tokens import revoke_token

    _with_catalog(lake, lambda kv, _clock: revoke_token(kv, token_id))
    click.echo(f"revoked token {token_id}")


def _moment(ms: int | None) -> str:
    return "never" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")


def _with_catalog(lake: str | None, work: Callable[[Any, Any], Awaitable[T]]) -> T:
    """Do something with the lake's catalog. Raises `InvalidError` for a lake that is a server."""
    from firnline.opening import engine_settings
    from firnline.settings import is_url
    from service.components import open_catalog
    from storage.clock import SystemClock
    from storage.errors import InvalidError

    settings = settings_for(lake)
    if is_url(settings.lake):
        raise InvalidError("tokens are made where the lake is; give its folder or bucket", lake=settings.lake)
    clock = SystemClock()

    async def run() -> T:
        kv = await open_catalog(engine_settings(settings.lake, settings), clock)
        try:
            return await work(kv, clock)
        finally:
            await kv.close()

    return asyncio.run(run())
