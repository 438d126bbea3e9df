"""What a process and all below it used, as the kernel counts it."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

__all__ = ["tree_cpu_s", "tree_peak_rss_bytes"]

_TICKS = os.sysconf("SC_CLK_TCK")
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


def tree_cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process, of those below it, and of the children that they have waited for.

    What a process used that ended as an orphan is lost, and so is 10 ms of each.
    """
    return sum(ticks for _pid, ticks in _tree(pid)) / _TICKS


def tree_peak_rss_bytes(pid: int) -> int:
    """Return the sum of the most memory that a process and each of those below it had resident, of those that live.

    Pages that several share count for each, and the peaks need not have been at one time.
    """
    total = 0
    for each, _ticks in _tree(pid):
        with suppress(OSError):  # it has just ended
            found = _PEAK.search(Path(f"/proc/{each}/status").read_text())
            total += int(found[1]) * 1024 if found else 0
    return total


def _tree(pid: int) -> list[tuple[int, int]]:
    """Return the ids and the clock ticks of a process and of those below it."""
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
    found, waiting = [], [pid]
    while waiting:
        each = waiting.pop()
        found.append((each, used.get(each, 0)))
        waiting += children[each]
    return found
