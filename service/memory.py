"""Memory and CPU time of processes, as Linux counts them."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cpu_s", "machine_memory_bytes", "rss_bytes"]

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def rss_bytes(pid: int) -> int:
    """Return the resident set of a process in bytes; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_bytes().split()
    except OSError:
        return 0
    return int(fields[1]) * _PAGE_BYTES if len(fields) > 1 else 0


def cpu_s(pid: int) -> float:
    """Return the CPU seconds a process has used, in user and system mode; 0 when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_memory_bytes() -> int:
    """Return how much memory there is: the machine's, or the control group's where that is less."""
    machine = os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return machine
    return min(machine, int(text)) if text.isdigit() else machine
