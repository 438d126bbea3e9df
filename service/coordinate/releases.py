"""Workers of another release than their coordinator, as there are while a deployment is upgraded.

1. A worker refuses a task that it cannot read, and says which part (`functions.tasks.DIFFERS`). No statement fails of
   that: its coordinator runs it by itself.
2. The workers are then left alone for `WHILE_S`, so that not each statement finds out anew.
3. A statement that this process could not end in its time is refused: 503, with the time at which to come again.
"""

from __future__ import annotations

import logging
import math

from functions.tasks import DIFFERS
from service.cost import ENGINE_BYTES_PER_S
from storage.clock import Clock
from storage.errors import FirnlineError, UnavailableError

__all__ = ["WHILE_S", "Releases", "WorkersDifferError", "differs_in"]

WHILE_S = 60.0
_FACTS = ("differs", "plan", "worker", "version", "reads", "fields", "kind")
_log = logging.getLogger("firnline.coordinate")


class WorkersDifferError(UnavailableError):
    """The workers refuse a statement's tasks, and none of its rows is gone out: it can be run in this process."""


def differs_in(error: BaseException) -> str | None:
    """Return what of a task an end of another release could not read; None if the error is about something else."""
    found = error.facts.get("differs") if isinstance(error, FirnlineError) else None
    return found if isinstance(found, str) and found in DIFFERS else None


class Releases:
    """What one coordinator knows of its workers' release; ``n_cores`` are those that it has itself."""

    def __init__(self, clock: Clock, n_cores: int) -> None:
        self._clock, self._n_cores = clock, max(1, n_cores)
        self._until_s = -math.inf
        self._said = ""

    def learn(self, error: FirnlineError) -> str | None:
        """Return what differs, and leave the workers alone for a while, if an error says that anything does."""
        differs = differs_in(error)
        if differs is not None:
            facts = " ".join(f"{name}={error.facts[name]}" for name in _FACTS if name in error.facts)
            if not self.reason:
                _log.warning(
                    "workers are of another release than this coordinator; statements run here for %d s: %s", WHILE_S,
                    error, extra={"differs": differs},
                )  # fmt: skip
            self._said = f"the workers are of another release: {facts}"
            self._until_s = self._clock.monotonic_s() + WHILE_S
        return differs

    @property
    def reason(self) -> str:
        """Why the workers are left alone now; "" if they are not."""
        return self._said if self._clock.monotonic_s() < self._until_s else ""

    def fits_here(self, scan_bytes: int, timeout_ms: int) -> bool:
        """Tell whether this process can scan so much within a statement's time; 0: it has no limit."""
        return not timeout_ms or self._here_s(scan_bytes) * 1000 <= timeout_ms

    def too_large(self, scan_bytes: int, timeout_ms: int) -> UnavailableError:
        """Return the error of a statement that needs workers."""
        return UnavailableError(
            f"{self._said}; without workers the statement takes longer than it may: send it again later, or with a "
            "larger timeout_ms",
            retry_after_s=self.retry_after_s, scan_bytes=scan_bytes, about_s=float(f"{self._here_s(scan_bytes):.2g}"),
            timeout_ms=timeout_ms,
        )  # fmt: skip

    def told(self, what: str, error: FirnlineError) -> UnavailableError:
        """Return an error of a statement that workers would not have failed with."""
        return UnavailableError(f"{self._said}; {what}: {error.message}", retry_after_s=self.retry_after_s)

    @property
    def retry_after_s(self) -> int:
        """Seconds until workers are asked again."""
        return max(1, math.ceil(min(self._until_s - self._clock.monotonic_s(), WHILE_S)))

    def _here_s(self, scan_bytes: int) -> float:
        return scan_bytes / ENGINE_BYTES_PER_S / self._n_cores
