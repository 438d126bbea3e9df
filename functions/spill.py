"""How much the engine may spill: most of what is free where it spills, so that a full disk is an error that says so.

A function's /tmp has half a gigabyte if nobody asks for more, and the engine's own bound is a hundred.
"""

from __future__ import annotations

import shutil
import tempfile

from datafusion import SessionContext

__all__ = ["bound_spill", "spill_bytes"]

_SHARE = 0.9
_MIB = 1 << 20


def spill_bytes(folder: str | None) -> int:
    """Return how much may be spilled into a folder, or the system's temporary one; 0 where that is not known."""
    try:
        return int(shutil.disk_usage(folder or tempfile.gettempdir()).free * _SHARE)
    except OSError:  # it is made with the first file, or is not there, which the first file tells
        return 0


def bound_spill(context: SessionContext, n_bytes: int) -> None:
    """Limit what all of a session's statements spill at a time; 0 leaves the engine's own limit."""
    if n_bytes:
        context.sql(f"SET datafusion.runtime.max_temp_directory_size = '{max(1, n_bytes // _MIB)}M'")
