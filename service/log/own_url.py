"""The address under which other processes reach the log of this one."""

from __future__ import annotations

import socket
from dataclasses import replace
from urllib.parse import urlsplit

from service.http_server import url_of
from service.settings import LogAccess
from storage.clock import Clock

__all__ = ["served_by", "worker_of"]

_EVERYWHERE = ("0.0.0.0", "::")


def served_by(settings: LogAccess, listener: socket.socket, clock: Clock) -> LogAccess:
    """Return the settings of an owner that answers on a bound socket.

    A socket on all addresses is made known as loopback, which only this machine's processes use, unless the settings
    say what the others are to use.
    """
    secret = settings.secret or clock.new_id() + clock.new_id()
    return replace(settings, url=settings.url or _local(url_of(listener)), secret=secret)


def worker_of(settings: LogAccess, listener: socket.socket) -> LogAccess:
    """Return the settings of a process on this machine that leaves owning to the one that listens."""
    via = _local(url_of(listener))
    return replace(settings, may_own=False, url=None, secret=None, via_url=via, via_secret=settings.secret)


def _local(url: str) -> str:
    parts = urlsplit(url)
    return f"http://127.0.0.1:{parts.port}" if parts.hostname in _EVERYWHERE else url
