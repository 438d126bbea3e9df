"""Where a stack keeps things, which ports it takes, and what it was told.

Everything is under one folder, ``build/stack`` of the checkout unless it is told another. Ports are chosen once and
kept: the endpoint's is 8080 if nobody has it, the others follow a number made of the folder's name, so that two
checkouts differ. A port that somebody else took meanwhile is replaced; one that was asked for is never.
"""

from __future__ import annotations

import json
import secrets
import socket
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "PORTS",
    "Choices",
    "Layout",
    "StackError",
    "choices_of",
    "chosen_ports",
    "remembered_ports",
    "task_secret",
    "write_private",
]

PORTS = ("s3", "etcd", "etcd-peer", "wal", "workers", "endpoint")
_ENDPOINT_PORT = 8080
_FIRST, _BLOCKS, _BLOCK = 20_000, 1000, 10


class StackError(Exception):
    """The stack cannot do what it was asked; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What a stack is made of.

    s3 : the S3 API; ``auto`` is LocalStack where its Python is found, else moto; ``files`` keeps objects in a folder
    functions : where tasks run: Lambda functions under emulators, or ``firn worker``
    n_workers : emulators, or tasks at once of ``firn worker``
    port : of the endpoint; None: 8080, or another that is free
    """

    s3: Literal["auto", "localstack", "moto", "files"] = "auto"
    functions: Literal["lambda", "http"] = "lambda"
    n_workers: int = 2
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of a stack.

    root : the checkout
    folder : the stack's own
    """

    root: Path
    folder: Path

    @property
    def state(self) -> Path:
        """Return the file of the ports."""
        return self.folder / "state.json"

    @property
    def env(self) -> Path:
        """Return the file that a shell can source."""
        return self.folder / "env"

    @property
    def data(self) -> Path:
        """Return the folder of what outlives the processes."""
        return self.folder / "data"

    def etcd(self, choices: Choices) -> Path:
        """Return the folder of etcd's data: a lake in files has objects of its own, and so a catalog of its own."""
        return (self.files if choices.s3 == "files" else self.data) / "etcd"

    @property
    def files(self) -> Path:
        """Return the folder of a lake in files."""
        return self.data / "files"

    def record(self, part: str) -> Path:
        """Return the file of a part's process."""
        return self.folder / "run" / f"{part}.json"

    def log(self, part: str) -> Path:
        """Return the file of a part's words."""
        return self.folder / "log" / f"{part}.log"

    def make(self) -> None:
        """Make the folders."""
        for each in (self.folder, self.data, self.folder / "run", self.folder / "log", self.folder / "tmp"):
            each.mkdir(parents=True, exist_ok=True, mode=0o700)


def write_private(path: Path, text: str) -> None:
    """Replace a file by one that only its owner reads."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text(text)
    draft.replace(path)


def task_secret(layout: Layout) -> str:
    """Return the stack's own secret for tasks, made when it is first asked for."""
    path = layout.folder / "secret"
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32))
    return path.read_text().strip()


def choices_of(layout: Layout, **asked: Any) -> Choices:
    """Return what the stack is to be made of: what is asked now (None: nothing), else what was asked the last time.

    Raises `StackError` for a number that cannot be; it is not remembered.
    """
    for name, variable, limit in (("n_workers", "WORKERS", 1000), ("port", "PORT", 65535)):
        if asked.get(name) is not None and not 1 <= asked[name] <= limit:
            raise StackError(f"{variable} is a number from 1 to {limit}, not {asked[name]}")
    path = layout.folder / "choices.json"
    try:
        before = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        before = {}
    known = {each.name for each in fields(Choices)} - {"port"}
    given = {name: value for name, value in asked.items() if value is not None}
    chosen = {name: value for name, value in (before | given).items() if name in known}
    write_private(path, json.dumps(chosen))
    return Choices(**chosen, port=asked.get("port"))


def remembered_ports(layout: Layout) -> dict[str, int]:
    """Return the ports of the last time."""
    try:
        ports = json.loads(layout.state.read_text())["ports"]
        return {str(name): int(port) for name, port in ports.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}


def chosen_ports(layout: Layout, choices: Choices, held: Mapping[str, int]) -> dict[str, int]:
    """Return every port, and remember it.

    Parameters
    ----------
    held : ports that parts of this stack listen on now

    Raises
    ------
    StackError : the port that was asked for is somebody else's
    """
    before, ports = remembered_ports(layout), dict(held)
    if choices.port is not None and held.get("endpoint") != choices.port:
        if not is_free(choices.port):
            raise StackError(f"port {choices.port}, which PORT asks for, is in use; choose another, or none")
        ports["endpoint"] = choices.port
    for name in PORTS:
        if name in ports:
            continue
        wanted = [before[name]] if name in before else [_ENDPOINT_PORT] if name == "endpoint" else []
        taken = set(ports.values())
        ports[name] = next(port for port in (*wanted, *_candidates(layout)) if port not in taken and is_free(port))
    write_private(layout.state, json.dumps({"ports": ports}, indent=2))
    return ports


def _candidates(layout: Layout) -> list[int]:
    start = zlib.crc32(str(layout.folder).encode()) % _BLOCKS * _BLOCK
    return [_FIRST + (start + step) % (_BLOCKS * _BLOCK) for step in range(_BLOCKS * _BLOCK)]


def is_free(port: int) -> bool:
    """Whether nothing listens on a port of the loopback at this moment."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
