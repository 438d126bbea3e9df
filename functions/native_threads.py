"""The end of a process in which native threads still work.

The engine's threads hand their results to Python, and may be in the middle of that when the script that took the last
one ends. Python 3.11 aborts when it is torn down under a thread that has its lock ("PyGILState_Release: thread state
must be current when releasing"): one of some fifty short scripts did.
"""

from __future__ import annotations

import atexit
import threading
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["settle", "settle_at_exit"]

_STEP_S = 0.001
_STEPS_MAX = 100
_QUIET_STEPS = 3
_TASKS = Path("/proc/self/task")


def settle_at_exit() -> None:
    """Have the process wait for its native threads before Python ends; once, however often this is called."""
    atexit.unregister(settle)
    atexit.register(settle)


def settle() -> None:
    """Return when no other thread has run for some milliseconds, or after a tenth of a second."""
    n_quiet = 0
    for _ in range(_STEPS_MAX):
        time.sleep(_STEP_S)  # in which others may take Python's lock
        n_quiet = 0 if _any_runs() else n_quiet + 1
        if n_quiet == _QUIET_STEPS:
            return


def _any_runs() -> bool:
    """Tell whether another thread has a core, or waits for one; False where the system does not say."""
    own = str(threading.get_native_id())
    with suppress(OSError):
        for task in _TASKS.iterdir():
            if task.name != own:
                with suppress(OSError):
                    if (task / "stat").read_text().rpartition(")")[2].split()[0] == "R":
                        return True
    return False
