"""Which process this is, so that another on the same machine can tell whether it still runs.

A process id alone is given again, and means another thing in another container; so a process is known by its machine,
the machine's boot, the namespace of its process ids, its id and when it started. Without ``/proc`` nothing is known to
be dead, and others wait for its lease to end.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Process", "is_dead", "this_process"]


@dataclass(frozen=True, slots=True)
class Process:
    """One process of one machine.

    host : name and id of the machine; it outlives a boot
    scope : its boot and the namespace of its process ids; empty where they cannot be known
    started : in clock ticks since boot, as the kernel counts them
    """

    host: str
    scope: str
    pid: int
    started: int


def this_process() -> Process:
    """Return what is known of the process that asks."""
    return Process(_host(), _scope(), os.getpid(), _started(os.getpid()) or 0)


def is_dead(process: Process) -> bool:
    """True only if the process certainly runs no more; one on another machine is never known to be dead."""
    if not process.scope or (process.host, process.scope) != (_host(), _scope()):
        return False
    return _started(process.pid) != process.started


@cache
def _host() -> str:
    return f"{socket.gethostname()}/{_read('/etc/machine-id')[:12]}"


@cache
def _scope() -> str:
    boot = _read("/proc/sys/kernel/random/boot_id")
    try:
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}" if boot else ""
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Return when the process started; None if there is none, or only its remains."""
    # The name in parentheses may hold anything, spaces and parentheses too.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 and fields[0] not in "ZX" else None


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""
