"""Requests to a server without tokens must name this machine.

A web page whose name is made to resolve to 127.0.0.1 (DNS rebinding) is of one origin with the server, so that the
browser sends what it likes and shows it the answer. The ``Host`` header still has the page's name, which gives it away:
an address, or ``localhost``, cannot be rebound.
"""

from __future__ import annotations

from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from service.problems import send_problem
from service.requests import header
from storage.errors import ForbiddenError

__all__ = ["LocalNames", "is_local_name"]


class LocalNames:
    """Wraps an app: 403 for a request that names the server otherwise than by an address or ``localhost``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_local_name(name := header(scope, b"host")):
            error = ForbiddenError(
                "a server without API tokens answers only to localhost and addresses, so that no web page reaches it; "
                "serve with --require-tokens behind another name",
                host=repr(name),
            )
            await send_problem(send, error)
            return
        await self._app(scope, receive, send)


def is_local_name(host: str) -> bool:
    """Tell whether a ``Host`` header is empty, ``localhost`` or below it, or an address; with a port or without."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if not name or name.lower() == "localhost" or name.lower().endswith(".localhost"):
        return True
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
