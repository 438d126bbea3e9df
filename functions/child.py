"""The start of a process that serves another one by a socket, and never outlives it; its logs go to that one's."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Coroutine
from typing import Any

from functions.json_lines import log_json

__all__ = ["serve_parent"]

_PR_SET_PDEATHSIG = 1


def serve_parent(arguments: list[str], serve: Callable[[socket.socket], Coroutine[Any, Any, None]]) -> None:
    """Run ``serve`` with the socket of the process that started this one, which the kernel kills when that one dies.

    Parameters
    ----------
    arguments : of the command line: the socket's file descriptor, the parent's process id, a folder for what is spilled
    """
    log_json()
    fd, parent, scratch = int(arguments[0]), int(arguments[1]), arguments[2]
    os.putenv("TMPDIR", scratch)
    tempfile.tempdir = scratch
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    _run()(serve(socket.socket(fileno=fd)))


def _run() -> Callable[[Coroutine[Any, Any, None]], None]:
    """Return what runs a coroutine: uvloop where it is installed, whose turns take less CPU time."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.run
    return uvloop.run
