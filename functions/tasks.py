"""Tasks: pieces of work that any worker can do from what the task says and from immutable files, and their wire form.

1. A task is a pure function of immutable files, of immutable pages (`functions.exchange`) and of a log range. It may be
   run twice, at the same time too, and gives the same rows.
2. A worker runs only what is signed with the deployment's secret and not expired, and never code from a task: plans
   are decoded with inlined Python functions refused.
3. Wire form: ``FNTK``, version (uint16), length of the header (uint32), header (JSON), payload, HMAC-SHA256 over all
   before it. A worker reads every version from `OLDEST` to `VERSION` and says which it cannot; fields that it does not
   know are ignored unless the header's ``must`` names them. Replies are ``FNRS`` in the same form.
4. A reply names the task and the checksum of its rows; the coordinator refuses any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["OLDEST", "VERSION", "Page", "Reply", "Task", "TaskKind", "decode_reply", "decode_task", "encode_reply",
           "encode_task"]  # fmt: skip

VERSION = 1
OLDEST = 1

TaskKind = Literal["scan", "aggregate", "join", "sort", "merge", "query", "lookup", "compact", "fit"]
"""The first five run a piece of a physical plan and differ in what is at its top; the others are whole jobs."""


@dataclass(frozen=True)
class Page:
    """Rows as one Arrow IPC stream (zstd): in the message, or in a blob with a lifetime.

    checksum : xxh3-like 64-bit or sha256 hex of the bytes, as `functions.exchange` says
    bucket : of a hash partitioning, which one the rows belong to; 0 otherwise
    """

    n_rows: int
    n_bytes: int
    checksum: str
    bucket: int = 0
    data: bytes | None = field(default=None, repr=False)
    location: str | None = None


@dataclass(frozen=True)
class Task:
    """One piece of work.

    id : of the task within its statement, such as ``2.7``; attempts share it
    body : of its kind, JSON values; see `functions.run_task`
    payload : the plan's bytes, or nothing
    inputs : name of a leaf of the plan → pages that stand there
    deadline_ms : since the epoch; nobody waits for the task's rows longer
    inline_bytes_max : of rows in the reply; more become pages under ``results``
    results : location prefix of the statement's pages
    traceparent : W3C trace context, "" for none
    """

    kind: TaskKind
    statement_id: str
    id: str
    body: Mapping[str, Any]
    payload: bytes = field(default=b"", repr=False)
    inputs: Mapping[str, Sequence[Page]] = field(default_factory=dict)
    deadline_ms: int = 0
    inline_bytes_max: int = 1 << 20
    results: str = ""
    traceparent: str = ""
    attempt: int = 1
    version: int = VERSION


@dataclass(frozen=True)
class Reply:
    """What a worker answers: rows, or an error's wire form (`storage.errors.FirnlineError.to_wire`).

    usage : ``wall_ms``, ``cpu_ms``, ``requests``, ``bytes_scanned``, ``memory_mb``, ``cold`` and the like, for receipts
    """

    statement_id: str
    task_id: str
    attempt: int
    pages: Sequence[Page] = ()
    error: Mapping[str, Any] | None = None
    usage: Mapping[str, float] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)


def encode_task(task: Task, secret: bytes) -> bytes:
    """Return the signed wire form."""
    raise NotImplementedError


def decode_task(data: bytes, secret: bytes, now_ms: int) -> Task:
    """Return the task.

    Raises
    ------
    ForbiddenError : it is not signed with ``secret``, or expired
    InvalidError : it is no task, or of a version that this worker does not read (names both versions)
    """
    raise NotImplementedError


def encode_reply(reply: Reply, secret: bytes) -> bytes:
    """Return the signed wire form."""
    raise NotImplementedError


def decode_reply(data: bytes, secret: bytes, task: Task) -> Reply:
    """Return the reply to ``task``. Raises `CorruptError` if it is damaged, not signed, or answers another task."""
    raise NotImplementedError
