"""Bodies of whom a worker does not know: few bytes at once, for a short time, and nothing that cannot be a task.

Coordinators say beforehand, and signed, how long a task is (`functions.admission`). Everyone else's request, an older
coordinator's among them, is read in this room until its own signature says whose it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive, Scope

from functions.signed import check_prefix
from service.requests import header
from storage.errors import CancelledError, OverloadedError, TooLargeError, UnavailableError

__all__ = ["UNADMITTED_BYTES_MAX", "Unadmitted"]

UNADMITTED_BYTES_MAX = 128 << 20
"""Of one body, and of all at once."""
_BODY_S = 60.0
_RETRY_S = 1


class Unadmitted:
    """Room for bodies whose signature has not been seen.

    n_bytes : that are held now, or are said to come
    """

    def __init__(self, magic: bytes, bytes_max: int = UNADMITTED_BYTES_MAX, body_s: float = _BODY_S) -> None:
        self.n_bytes = 0
        self._magic, self._bytes_max, self._body_s = magic, bytes_max, body_s

    @asynccontextmanager
    async def body(self, scope: Scope, receive: Receive) -> AsyncIterator[bytes]:
        """Read a body; its bytes count until the block ends.

        Raises
        ------
        InvalidError : it is no message of ours, as its first bytes tell
        TooLargeError : it is longer than the room
        OverloadedError : others' bodies are in the room
        UnavailableError : it did not come in time
        """
        declared = header(scope, b"content-length")
        held = [0]
        try:
            self._hold(held, int(declared) if declared.isdigit() else 0)
            try:
                async with asyncio.timeout(self._body_s):
                    read = await self._read(receive, held)
            except TimeoutError:
                raise UnavailableError(
                    "the request's body did not come in time", within_s=self._body_s, retry_after_s=_RETRY_S
                ) from None
            yield read
        finally:
            self.n_bytes -= held[0]

    async def _read(self, receive: Receive, held: list[int]) -> bytes:
        body, checked = bytearray(), False
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise CancelledError("the client went away")
            body += message.get("body", b"")
            more = message.get("more_body", False)
            self._hold(held, len(body))
            if not checked:
                checked = check_prefix(self._magic, body, whole=not more)
            if not more:
                return bytes(body)

    def _hold(self, held: list[int], n_bytes: int) -> None:
        """Count a body that is ``n_bytes`` long at least."""
        more = n_bytes - held[0]
        if n_bytes > self._bytes_max:
            raise TooLargeError(
                "the task is longer than this worker takes of whom it does not know; coordinators of this release say "
                "signed what they send, so see that they have this deployment's FIRN_TASK_SECRET, and that what is "
                "between keeps the field firnline-admission",
                n_bytes=n_bytes, bytes_max=self._bytes_max,
            )  # fmt: skip
        if more > 0 and self.n_bytes + more > self._bytes_max:
            raise OverloadedError(
                "this worker has as many bytes of requests at hand as it takes before it knows whose they are; send it "
                "again, or to another",
                bytes_max=self._bytes_max, retry_after_s=_RETRY_S,
            )  # fmt: skip
        if more > 0:
            held[0] += more
            self.n_bytes += more
