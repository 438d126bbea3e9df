"""A line on the terminal while a statement runs for long; it is gone before the answer is shown."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from storage.clock import Clock

__all__ = ["Progress", "bar"]

_DELAY_S = 1.0
_STEP_S = 0.1
_ASK_FRAMES = 20
_BAR_WIDTH = 24
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_CLEAR = "\r\x1b[2K"


class Progress:
    """Shows the time on ``terminal`` from one second after its start until `stop`, or the end of its block.

    ``terminal=None`` shows nothing, for output that nobody watches. ``ask`` says how far it is, or nothing; it is asked
    every two seconds.
    """

    def __init__(self, terminal: TextIO | None, clock: Clock, ask: Callable[[], str] = str) -> None:
        self._terminal = terminal
        self._ask = ask
        self._clock = clock
        self._started_s = clock.monotonic_s()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def stop(self) -> None:
        """Take the line away; stopping twice is no error."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Progress:
        if self._terminal is not None:
            self._thread = threading.Thread(target=self._show, args=(self._terminal,), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _show(self, terminal: TextIO) -> None:
        if self._stop.wait(_DELAY_S):
            return
        frame, told = 0, ""
        while not self._stop.wait(_STEP_S):
            seconds = self._clock.monotonic_s() - self._started_s
            if frame % _ASK_FRAMES == 0:
                told = self._ask()
            shown = f"{seconds:.1f} s, {told + ', ' if told else ''}Ctrl-C cancels"
            terminal.write(f"{_CLEAR}\x1b[2m{_FRAMES[frame % len(_FRAMES)]} {shown}\x1b[0m")
            terminal.flush()
            frame += 1
        terminal.write(_CLEAR)
        terminal.flush()


def bar(rows: int, bytes_read: int, bytes_total: int, seconds: float, skipped: int = 0) -> str:
    """Return one line on how far an import is: share, rows, rate and the time that is left; total 0 is unknown."""
    parts = []
    share = min(1.0, bytes_read / bytes_total) if bytes_total else 0.0
    if bytes_total:
        filled = int(share * _BAR_WIDTH)
        parts.append(f"{'█' * filled}{'░' * (_BAR_WIDTH - filled)} {share:4.0%}")
    parts += [f"{rows:,} rows", f"{bytes_read / 1e6:,.0f} MB"]
    if seconds > 0:
        parts.append(f"{rows / seconds:,.0f} rows/s")
    if 0 < share < 1 and seconds > 1:
        parts.append(f"{seconds * (1 - share) / share:,.0f} s left")
    if skipped:
        parts.append(f"{skipped:,} left out")
    return "  ".join(parts)
