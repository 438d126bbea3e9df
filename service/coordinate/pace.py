"""How many tasks run at once: few at first, more while workers keep up, half as many when they are throttled.

Source: Chiu, Jain: "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance in Computer Networks",
Computer Networks and ISDN Systems 17, 1989; with TCP's slow start until the first throttling.
"""

from __future__ import annotations

__all__ = ["START", "Pace"]

START = 8
"""Tasks sent before any has answered."""
_ROUND_S = 0.5
"""Throttled replies within this time are one message: slow down."""
_QUEUED_S = 1.0


class Pace:
    """The window of one statement.

    Parameters
    ----------
    most : tasks at once, as invoker and settings allow; 0: no limit
    """

    def __init__(self, most: int) -> None:
        self._most = most or 1 << 30
        self.window = float(min(START, self._most))
        self._slow_start_until = float(self._most)
        self._held_until_s = 0.0
        self._cut_s = -_ROUND_S

    def free(self, running: int, now_s: float) -> int:
        """Return how many more tasks may start now."""
        return 0 if now_s < self._held_until_s else max(0, int(self.window) - running)

    def held_until_s(self, now_s: float) -> float | None:
        """Return when tasks may start again, if none may now because workers said so."""
        return self._held_until_s if now_s < self._held_until_s else None

    def replied(self, elapsed_s: float, worked_s: float) -> None:
        """Count a reply; one that waited for a worker longer than it worked lets nothing grow."""
        if elapsed_s - worked_s > _QUEUED_S + worked_s:
            return
        grown = 1.0 if self.window < self._slow_start_until else 1.0 / self.window
        self.window = min(self.window + grown, self._most)

    def throttled(self, now_s: float, retry_after_s: float) -> None:
        """Count a task that was refused for want of room."""
        self._held_until_s = max(self._held_until_s, now_s + retry_after_s)
        if now_s - self._cut_s >= _ROUND_S:
            self._cut_s = now_s
            self.window = max(1.0, self.window / 2)
            self._slow_start_until = self.window
