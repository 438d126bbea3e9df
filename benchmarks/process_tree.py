"""CPU time of a process and all below it, as the kernel counts it."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

__all__ = ["tree_cpu_s"]

_TICKS = os.sysconf("SC_CLK_TCK")


def tree_cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process, of those below it, and of the children that they have waited for.

    What a process used that ended as an orphan is lost, and so is 10 ms of each.
    """
    children: dict[int, list[int]] = defaultdict(list)
    used: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        own = int(path.parent.name)
        children[int(fields[1])].append(own)
        used[own] = sum(map(int, fields[11:15]))
    total, waiting = 0, [pid]
    while waiting:
        each = waiting.pop()
        total += used.get(each, 0)
        waiting += children[each]
    return total / _TICKS
