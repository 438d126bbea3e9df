"""Processes of the stack: started apart from whoever asks, known again by what the kernel says, ended for certain.

A process is known by its pid, the moment at which it started, and the boot in which it did; another one that got its
pid later is never taken for it. The record is written by the process itself, before it becomes the program, so that
none runs without one. It leads a session of its own: whatever it starts is found by that, and by the stack's mark in
its environment, also when it was killed itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

__all__ = ["MARK", "Interrupts", "Record", "end", "leftovers", "read_record", "running", "start"]

MARK = "FIRNLINE_STACK"
"""The variable, in the environment of all that the stack starts, that holds the stack's folder."""

_LAUNCH = str(Path(__file__).with_name("launch.py"))
_POLL_S = 0.05
_KILL_S = 5.0


@dataclass(frozen=True, slots=True)
class Record:
    """A process as it was started.

    started : clock ticks between the machine's boot and the process's start
    boot : the kernel's name of that boot
    identity : of the command line and environment that it was started with
    """

    pid: int
    started: int
    boot: str
    identity: str


def boot_id() -> str:
    """Return the kernel's name of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str] | None:
    """Return the fields of a process's ``stat`` from the state on, or None if there is none or it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields


def started_ticks(pid: int) -> int | None:
    """Return when a living process started, in clock ticks since the boot."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def read_record(path: Path) -> Record | None:
    """Return a record, or None where there is none that reads."""
    try:
        return Record(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_record(path: Path, identity: str) -> None:
    """Record the process that calls this."""
    started = started_ticks(os.getpid())
    assert started is not None
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(Record(os.getpid(), started, boot_id(), identity))))
    draft.replace(path)


def running(record: Record | None) -> bool:
    """Whether the recorded process lives."""
    return record is not None and record.boot == boot_id() and started_ticks(record.pid) == record.started


def start(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, record: Path, log: Path, identity: str
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, in ``folder``, with nothing but its log open; do not wait for it."""
    record.unlink(missing_ok=True)
    return subprocess.Popen(
        [sys.executable, "-I", _LAUNCH, str(record), str(log), identity, *command],
        cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def leftovers(record: Record | None, mark: str) -> dict[int, int]:
    """Return pid → start of the processes of a recorded one's session that carry the stack's mark."""
    if record is None or record.boot != boot_id():
        return {}
    found = {}
    for path in Path("/proc").iterdir():
        if not path.name.isdecimal():
            continue
        fields = _stat(int(path.name))
        if fields is not None and int(fields[3]) == record.pid and _marked(int(path.name), mark):
            found[int(path.name)] = int(fields[19])
    return found


def _marked(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def end(record: Record | None, mark: str, *, within_s: float) -> bool:
    """End the recorded process and what it started: SIGTERM, and SIGKILL after ``within_s``.

    Returns whether all ended by themselves. Nothing is signalled but the recorded process and those of its session.
    """
    if record is None:
        return True
    before = leftovers(record, mark)
    if running(record):
        _signal(record.pid, record.started, signal.SIGTERM)
        _signal(record.pid, record.started, signal.SIGCONT)  # one that was stopped heeds it too
        _wait({record.pid: record.started}, within_s)
    rest = {pid: ticks for pid, ticks in (before | leftovers(record, mark)).items() if started_ticks(pid) == ticks}
    if not rest:
        return True
    killed_leader = record.pid in rest
    for pid, ticks in rest.items():
        _signal(pid, ticks, signal.SIGKILL)
    _wait(rest, _KILL_S)
    return not killed_leader


def _signal(pid: int, ticks: int, number: signal.Signals) -> None:
    # A pidfd is the process that was checked, whatever becomes of its number meanwhile.
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if started_ticks(pid) == ticks:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def _wait(processes: Mapping[int, int], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and any(started_ticks(pid) == ticks for pid, ticks in processes.items()):
        time.sleep(_POLL_S)


class Interrupts:
    """Signals that end a command: at once, but for moments in which a process would be begun and not be known."""

    def __init__(self) -> None:
        self._holding = self._came = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self._came = True
        if not self._holding:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let signals wait for the end of the block."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._came:
            raise KeyboardInterrupt
