"""Where a benchmark ran: the machine, its load, and the versions of everything that took part."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from storage.clock import SystemClock

__all__ = ["REPOSITORY", "describe_machine", "versions"]

REPOSITORY = Path(__file__).resolve().parents[1]


def describe_machine() -> list[str]:
    """Return the machine, the moment and the commit, a sentence each."""
    now = datetime.fromtimestamp(SystemClock().now_ms() / 1000, UTC)
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return [
        f"Machine: {_cpu_model()}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}.",
        f"Run: {now:%Y-%m-%d %H:%M} UTC at commit {_commit()}; load average at the start {load}.",
    ]


def versions(packages: Sequence[str]) -> str:
    """Return ``name version, …``; a package that is not installed is named as missing."""
    return ", ".join(f"{package} {_version(package)}" for package in packages)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _commit() -> str:
    command = ["git", "-C", str(REPOSITORY), "log", "-1", "--format=%h"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or f"(none, {sys.executable})"
