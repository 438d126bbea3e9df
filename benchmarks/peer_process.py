"""One engine in a process of its own, so that no engine's memory, caches or threads touch another's.

Started as ``python -m benchmarks.peer_process NAME``; speaks JSON, a line each way. The wall and CPU time of a run are
taken inside the process, from the text to the last row as an Arrow table.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from benchmarks.machine import REPOSITORY
from benchmarks.peers import PEERS, Peer, S3Access

__all__ = ["PeerError", "PeerProcess", "Run", "peer_process"]


class PeerError(Exception):
    """The engine refused the statement, or passed its time; the message is its own."""


@dataclass(frozen=True, slots=True)
class Run:
    """One statement's cost. ``receipt`` is the engine's own account of it, if it gives one."""

    wall_s: float
    cpu_s: float
    rows: int
    receipt: Mapping[str, Any] | None = None


class PeerProcess:
    """The parent's end of one engine's process."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process

    def open(self, tables: Mapping[str, str], s3: S3Access | None = None, timeout_s: float = 120) -> float:
        """Make tables queryable; return the seconds that took. Raises `PeerError`."""
        asked = {"open": dict(tables), "s3": asdict(s3) if s3 else None}
        return float(self._ask(asked, timeout_s)["wall_s"])

    def run(self, sql: str, *, save: Path | None = None, timeout_s: float = 120) -> Run:
        """Run a statement; write its answer as an Arrow file if ``save`` is given. Raises `PeerError`."""
        reply = self._ask({"run": sql, "save": str(save) if save else None}, timeout_s)
        return Run(reply["wall_s"], reply["cpu_s"], reply["rows"], reply["receipt"])

    def peak_rss_bytes(self) -> int:
        """Return the most memory the process has had resident."""
        return int(self._ask({"peak": True}, 30)["bytes"])

    def alive(self) -> bool:
        """Whether the process can still be asked."""
        return self._process.poll() is None

    def end(self) -> None:
        """Close the engine, or kill it when it does not answer."""
        if self.alive():
            try:
                self._ask({"close": True}, 20)
            except PeerError:
                self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _ask(self, asked: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        sink, source = self._process.stdin, self._process.stdout
        assert sink is not None and source is not None
        try:
            sink.write(json.dumps(asked) + "\n")
            sink.flush()
        except OSError:
            raise PeerError("the process is gone") from None
        if not select.select([source], [], [], timeout_s)[0]:
            self._process.kill()
            raise PeerError(f"took more than {timeout_s:.0f} s")
        line = source.readline()
        if not line:
            raise PeerError(f"the process died, code {self._process.wait()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise PeerError(reply["error"])
        return reply


@contextmanager
def peer_process(name: str) -> Iterator[PeerProcess]:
    """Start an engine's process and end it with the block."""
    command = [sys.executable, "-m", "benchmarks.peer_process", name]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "FIRN_"))}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment
    )
    peer = PeerProcess(name, process)
    try:
        yield peer
    finally:
        peer.end()


def _serve(peer: Peer, source: IO[str], sink: IO[str]) -> None:
    for line in source:
        asked = json.loads(line)
        try:
            reply = _act(peer, asked)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # panics of some engines are BaseExceptions; the next statement may work
            reply = {"error": f"{type(error).__name__}: {str(error)[:2000]}"}
        sink.write(json.dumps(reply, default=str) + "\n")
        sink.flush()
        if "close" in asked:
            return


def _act(peer: Peer, asked: Mapping[str, Any]) -> dict[str, Any]:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    if "open" in asked:
        peer.open(asked["open"], S3Access(**asked["s3"]) if asked["s3"] else None)
        return {"wall_s": time.perf_counter() - wall_s}
    if "peak" in asked:
        return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if "close" in asked:
        peer.close()
        return {}
    answer = peer.run(asked["run"])
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    if asked["save"]:
        with pa.OSFile(asked["save"], "wb") as file, pa.ipc.new_file(file, answer.table.schema) as writer:
            writer.write_table(answer.table)
    return {"wall_s": wall_s, "cpu_s": cpu_s, "rows": answer.table.num_rows, "receipt": answer.receipt}


def main(arguments: list[str]) -> None:
    """Serve the engine named by the argument until its input ends."""
    sink = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is not an answer
    _serve(PEERS[arguments[0]](), sys.stdin, sink)


if __name__ == "__main__":
    main(sys.argv[1:])
