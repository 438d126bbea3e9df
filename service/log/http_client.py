"""Requests to the owner of a log, over the HTTP client that functions use.

What it raises tells what may have happened: `NotReachedError` if no byte of the request left, `IndeterminateError` if
any did and no whole answer came. Nothing is sent twice: an append is not a pure function.
"""

from __future__ import annotations

import asyncio

from functions.invoke.http_client import Answer, Client, LostError
from storage.clock import Clock
from storage.errors import IndeterminateError, UnavailableError

__all__ = ["HttpClient", "NotReachedError"]

_IDLE_S = 20.0
"""Below what the owner keeps a connection that is idle."""
_CONNECT_S = 2.0
_BODY_BYTES_MAX = 1 << 40
"""An owner is trusted with the length of its answers, which requests limit."""


class NotReachedError(UnavailableError):
    """No connection could be made: nothing was asked."""


class HttpClient:
    """Connections to ``url`` (``http[s]://host:port``); used by the tasks of one event loop."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.url = url
        self._client = Client(url, clock, connect_s=_CONNECT_S, idle_s=_IDLE_S)

    async def request(
        self, method: str, path: str, body: bytes = b"", *, secret: str, timeout_s: float, traceparent: str = ""
    ) -> Answer:
        """Send a request and return the answer. Raises what the module says."""
        fields = {"Authorization": f"Bearer {secret}", **({"traceparent": traceparent} if traceparent else {})}
        try:
            async with asyncio.timeout(timeout_s):
                return await self._client.request(
                    method, path, body, body_bytes_max=_BODY_BYTES_MAX, fields=fields, may_repeat=False
                )
        except LostError as error:
            reason = str(error)
            if not error.sent:
                raise NotReachedError("the log's owner cannot be reached", url=self.url, reason=reason) from error
        except TimeoutError:
            reason = "no answer in time"
        raise IndeterminateError("the log's owner was asked and did not answer", url=self.url, reason=reason)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
