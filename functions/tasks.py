"""Tasks: pieces of work that any worker can do from what the task says and from immutable files, and their wire form.

1. A task is a pure function of immutable files, of immutable pages (`functions.exchange`) and of a log range. It may be
   run twice, at the same time too, and gives the same rows.
2. A worker runs only what is signed with the deployment's secret and not expired, and never code from a task: plans
   are decoded with inlined Python functions refused.
3. Wire form: ``FNTK``, version (uint16), length of the header (uint32), header (JSON), payload, HMAC-SHA256 over all
   before it. A worker reads every version from `OLDEST` to `VERSION` and says which it cannot; fields that it does not
   know are ignored unless the header's ``must`` names them. Replies are ``FNRS`` in the same form.
4. What one end cannot read since the other is of another release is an error with the fact ``differs``: which part
   that is (`DIFFERS`). Nothing is wrong with the statement then, and its coordinator can run it by itself.
5. A reply names the task and the checksum of its rows; the coordinator refuses any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from functions.signed import OLDEST, VERSION, open_message, seal
from storage.errors import CorruptError, FirnlineError, ForbiddenError, InvalidError

__all__ = ["DIFFERS", "OLDEST", "TASK_MAGIC", "VERSION", "Page", "Reply", "Task", "TaskKind",
           "decode_reply", "decode_task", "encode_reply", "encode_task"]  # fmt: skip

TaskKind = Literal["scan", "aggregate", "join", "sort", "merge", "query", "lookup", "compact", "fit"]
"""The first five run a piece of a physical plan and differ in what is at its top; the others are whole jobs."""

TASK_MAGIC, _REPLY = b"FNTK", b"FNRS"
_KINDS: frozenset[str] = frozenset(get_args(TaskKind))
_ID_LENGTH_MAX = 200
DIFFERS = frozenset(("version", "fields", "kind", "engine", "plan"))
"""Wire form, fields that must be known, kind of task, engine of the plan, and a plan that it does not decode."""


@dataclass(frozen=True)
class Page:
    """Rows as one Arrow IPC stream (zstd): in the message, or in a blob with a lifetime.

    checksum : SHA-256 of the bytes, in hexadecimal: a signed message that names a page vouches for its rows
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
    deadline_ms : since the epoch; nobody waits for the task's rows longer; 0: for as long as it takes
    inline_bytes_max : of rows in the reply; more become pages under ``results``
    results : location prefix of the statement's pages
    traceparent : W3C trace context, "" for none
    memory_bytes : that the task may hold before it spills or fails; 0: as much as the worker gives
    engine : whose plan the payload is, such as ``datafusion 55`` (`functions.execute.ENGINE`); "": not said
    needs : what a worker must know of, or refuse the task: ``merge`` for files that are merged on read
    version : of the wire form that it came in
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
    memory_bytes: int = 0
    engine: str = ""
    needs: tuple[str, ...] = ()
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
    """Return the signed wire form.

    Raises
    ------
    InvalidError : the secret is empty, or the body holds what is no JSON value
    TooLargeError : it is longer than any worker reads
    """
    blobs = [task.payload]
    header: dict[str, Any] = {
        "kind": task.kind,
        "statement_id": task.statement_id,
        "id": task.id,
        "attempt": task.attempt,
        "body": task.body,
        "inputs": {name: [_page_header(page, blobs) for page in pages] for name, pages in task.inputs.items()},
        "deadline_ms": task.deadline_ms,
        "inline_bytes_max": task.inline_bytes_max,
        "results": task.results,
        "traceparent": task.traceparent,
        "memory_bytes": task.memory_bytes,
    }
    if task.engine:
        header["engine"] = task.engine
    if task.needs:
        header["must"] = list(task.needs)
    return seal(TASK_MAGIC, header, blobs, secret)


def decode_task(data: bytes, secret: bytes, now_ms: int) -> Task:
    """Return the task.

    Raises
    ------
    ForbiddenError : it is not signed with ``secret``, or expired
    InvalidError : it is no task, or of a version that this worker does not read (names both versions)
    """
    version, header, blobs = open_message(TASK_MAGIC, data, secret, _TASK_FIELDS)
    try:
        parts = _parts(header, blobs)
        deadline_ms = _whole(header.get("deadline_ms", 0))
        task = Task(
            kind=_known_kind(header["kind"]),
            statement_id=_id(header["statement_id"]),
            id=_id(header["id"]),
            body=dict(header.get("body", {})),
            payload=parts[0] if parts else b"",
            inputs={name: [_page(each, parts) for each in pages] for name, pages in header.get("inputs", {}).items()},
            deadline_ms=deadline_ms,
            inline_bytes_max=_whole(header.get("inline_bytes_max", 1 << 20)),
            results=_text(header.get("results", "")),
            traceparent=_text(header.get("traceparent", "")),
            attempt=_whole(header.get("attempt", 1)),
            memory_bytes=_whole(header.get("memory_bytes", 0)),
            engine=_text(header.get("engine", "")),
            needs=tuple(map(_text, header.get("must", ()))),
            version=version,
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InvalidError("the task's header is not as it should be", reason=repr(error)[:200]) from None
    if deadline_ms and now_ms > deadline_ms:
        raise ForbiddenError(
            "the task is expired: nobody waits for its rows any more; check the clocks of coordinator and worker",
            deadline_ms=deadline_ms, now_ms=now_ms,
        )  # fmt: skip
    return task


def encode_reply(reply: Reply, secret: bytes) -> bytes:
    """Return the signed wire form. Raises as `encode_task`."""
    blobs = [b""]
    header = {
        "statement_id": reply.statement_id,
        "task_id": reply.task_id,
        "attempt": reply.attempt,
        "pages": [_page_header(page, blobs) for page in reply.pages],
        "error": reply.error,
        "usage": reply.usage,
        "body": reply.body,
    }
    return seal(_REPLY, header, blobs, secret)


def decode_reply(data: bytes, secret: bytes, task: Task) -> Reply:
    """Return the reply to ``task``. Raises `CorruptError` if it is damaged, not signed, or answers another task."""
    try:
        _version, header, blobs = open_message(_REPLY, data, secret, _REPLY_FIELDS)
        parts = _parts(header, blobs)
        error = header.get("error")
        reply = Reply(
            statement_id=_text(header["statement_id"]),
            task_id=_text(header["task_id"]),
            attempt=_whole(header["attempt"]),
            pages=[_page(each, parts) for each in header.get("pages", [])],
            error=dict(error) if error is not None else None,
            usage={name: _number(value) for name, value in header.get("usage", {}).items()},
            body=dict(header.get("body", {})),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CorruptError("a worker's reply is not as it should be", task=task.id, reason=repr(error)[:200]) from None
    except CorruptError:
        raise
    except FirnlineError as error:
        differs = error.facts.get("differs")
        raise CorruptError(f"a worker's reply cannot be read: {error}", task=task.id, differs=differs) from None
    if (reply.statement_id, reply.task_id, reply.attempt) != (task.statement_id, task.id, task.attempt):
        raise CorruptError(
            "a worker answered another task than it was asked", task=task.id, attempt=task.attempt,
            answered=f"{reply.statement_id}/{reply.task_id}/{reply.attempt}",
        )  # fmt: skip
    return reply


_TASK_FIELDS = frozenset(
    ("kind", "statement_id", "id", "attempt", "body", "inputs", "deadline_ms", "inline_bytes_max", "results",
     "traceparent", "memory_bytes", "engine", "parts", "must", "merge")
)  # fmt: skip
_REPLY_FIELDS = frozenset(
    ("statement_id", "task_id", "attempt", "pages", "error", "usage", "body", "parts", "must")
)  # fmt: skip


def _parts(header: Mapping[str, Any], blobs: memoryview) -> list[bytes]:
    """Cut what follows the header into the parts whose lengths it says."""
    parts, start = [], 0
    for length in header.get("parts", [len(blobs)]):
        limit = start + _whole(length)
        if limit > len(blobs):
            raise ValueError("the payload is shorter than its parts")
        parts.append(bytes(blobs[start:limit]))
        start = limit
    return parts


def _page_header(page: Page, blobs: list[bytes]) -> dict[str, Any]:
    found: dict[str, Any] = {"rows": page.n_rows, "bytes": page.n_bytes, "checksum": page.checksum}
    if page.bucket:
        found["bucket"] = page.bucket
    if page.data is not None:
        found["part"] = len(blobs)
        blobs.append(page.data)
    if page.location is not None:
        found["location"] = page.location
    return found


def _page(header: Mapping[str, Any], parts: Sequence[bytes]) -> Page:
    part, location = header.get("part"), header.get("location")
    if (part is None) == (location is None):
        raise ValueError("a page is in the message or at a location")
    return Page(
        n_rows=_whole(header["rows"]),
        n_bytes=_whole(header["bytes"]),
        checksum=_text(header["checksum"]),
        bucket=_whole(header.get("bucket", 0)),
        data=None if part is None else parts[_whole(part)],
        location=None if location is None else _text(location),
    )


def _known_kind(value: Any) -> TaskKind:
    if value not in _KINDS:
        raise InvalidError(
            "this worker knows no such kind of task; deploy workers before coordinators",
            kind=str(value)[:_ID_LENGTH_MAX], differs="kind",
        )  # fmt: skip
    kind: TaskKind = value
    return kind


def _id(value: Any) -> str:
    text = _text(value)
    if not text or len(text) > _ID_LENGTH_MAX:
        raise ValueError("an id is empty or too long")
    return text


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"not a text: {value!r}")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"not a whole number: {value!r}")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"not a number: {value!r}")
    return value
