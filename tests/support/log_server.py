"""A real log service for tests: `serve_log` in a process of its own, on a free port."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import dataclass

from service.log.server import LogServerSettings

__all__ = ["LogServer", "start_log_server"]

_PROGRAM = (
    "import pickle, sys; from service.log.server import serve_log; serve_log(pickle.loads(bytes.fromhex(sys.argv[1])))"
)


@dataclass
class LogServer:
    """A log service that runs, and its URL."""

    process: subprocess.Popen[str]
    url: str

    def end(self) -> int:
        """Tell it to stop, kill it if it does not, and return its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            self.close()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Close its pipe."""
        if self.process.stdout is not None:
            self.process.stdout.close()


def start_log_server(settings: LogServerSettings) -> LogServer:
    """Start it and return once it listens."""
    command = [sys.executable, "-c", _PROGRAM, pickle.dumps(settings).hex()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("listening on "):
        raise RuntimeError(f"the log service did not start: {line!r}, exit code {process.poll()}")
    return LogServer(process, line.removeprefix("listening on ").strip())
