"""What a long run is doing, on standard error, so that what it found stays alone on standard output."""

from __future__ import annotations

import sys
import time

__all__ = ["progress"]

_STARTED_S = time.perf_counter()


def progress(section: str, doing: str) -> None:
    """Say what a section does now, and the minutes and seconds since the program began."""
    minutes, seconds = divmod(int(time.perf_counter() - _STARTED_S), 60)
    print(f"[{minutes:02}:{seconds:02}] {section}: {doing}", file=sys.stderr, flush=True)
