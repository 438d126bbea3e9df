"""A real server for tests: `serve` in a process of its own, on a free port."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from service.server import ServeSettings

__all__ = ["serving"]

_PROGRAM = "import pickle, sys; from service.server import serve; serve(pickle.loads(bytes.fromhex(sys.argv[1])))"


@contextmanager
def serving(settings: ServeSettings) -> Iterator[str]:
    """Run the server and yield its URL; it is told to stop at the end, and killed if it does not."""
    command = [sys.executable, "-c", _PROGRAM, pickle.dumps(settings).hex()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(f"the server did not start: {line!r}, exit code {process.poll()}")
        yield line.removeprefix("listening on ").strip()
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
