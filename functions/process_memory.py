"""Memory and activity of processes, as Linux tells them."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["machine_memory_bytes", "rss_bytes", "wants_cpu"]

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_GROUPS = Path("/sys/fs/cgroup")
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Of control groups of version 2 and 1, which writes about 2**63 where there is no limit."""


def rss_bytes(pid: int) -> int:
    """Return the resident set of a process in bytes; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_bytes().split()
    except OSError:
        return 0
    return int(fields[1]) * _PAGE_BYTES if len(fields) > 1 else 0


def wants_cpu(pid: int) -> bool:
    """Tell whether any thread of a process runs or would run if a core were free; False when it is gone.

    The state tells it of a thread that other processes keep from a core too, which CPU time would not.
    """
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            state = task.read_text().rpartition(")")[2].split()[0]
        except OSError:  # the thread has just ended
            continue
        if state in "RD":
            return True
    return False


def machine_memory_bytes(groups: Path = _GROUPS) -> int:
    """Return how much memory there is: the machine's, or the control group's where that is less.

    groups : where control groups are mounted, of version 2 or 1
    """
    machine = os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES
    return min([machine, *filter(None, (_number(groups / name) for name in _LIMITS))])


def _number(path: Path) -> int:
    """Return what a file of the kernel says; 0 where it is absent or says no number, such as ``max``."""
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0
