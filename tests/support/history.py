"""What concurrent clients asked and were told, and whether one correct store could have told it.

A `History` records invocations and completions on one clock. Two kinds of data are checked:

* a *set*, to which clients append values that never recur: `check_set`;
* *registers*, one for each key, which clients write, delete, increment (read and write in one statement) and read:
  `check_registers`. Each register is checked for linearizability on its own, which is enough: Herlihy and Wing,
  "Linearizability", TOPLAS 1990, section 3.3 (locality).

The search is that of Wing and Gong, "Testing and verifying concurrent objects", JPDC 1993, with the memory of Lowe,
"Testing for linearizability", CCPE 2017, section 4: which operations are done and what the register holds.

An operation ends ``ok`` (it happened between its start and its end), ``failed`` (it did not happen) or ``unknown``
(it may have happened at any time after its start, or never).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Fault", "History", "Operation", "check_registers", "check_set"]

Kind = Literal["append", "write", "delete", "increment", "insert", "read", "scan"]
Outcome = Literal["ok", "failed", "unknown"]
STATES_MAX = 2_000_000


@dataclass(slots=True)
class Operation:
    """One request of one client.

    Attributes
    ----------
    key : of the register, or of the set
    value : what is appended or written; for a read what was answered (None: no such row), for a scan the answered
        values as a list
    start, end : seconds on the history's clock; the end of an unknown one is infinite
    """

    kind: Kind
    key: Any
    value: Any
    start: float
    end: float = math.inf
    outcome: Outcome = "unknown"

    def ok(self, clock: Callable[[], float], value: Any = None) -> None:
        """It was acknowledged, or answered with ``value``."""
        if self.kind in ("read", "scan"):
            self.value = value
        self.end, self.outcome = clock(), "ok"

    def failed(self, clock: Callable[[], float]) -> None:
        """It certainly did not happen."""
        self.end, self.outcome = clock(), "failed"


@dataclass
class History:
    """Operations in the order of their invocation. ``clock`` is monotonic, in seconds, the same for all clients."""

    clock: Callable[[], float]
    operations: list[Operation] = field(default_factory=list)

    def invoke(self, kind: Kind, key: Any = None, value: Any = None) -> Operation:
        """Note that a request is about to be sent; it is unknown until it is told `ok` or `failed`."""
        operation = Operation(kind, key, value, self.clock())
        self.operations.append(operation)
        return operation

    def ok(self, operation: Operation, value: Any = None) -> None:
        """Note its answer, at this moment."""
        operation.ok(self.clock, value)

    def failed(self, operation: Operation) -> None:
        """Note that it did not happen."""
        operation.failed(self.clock)

    def check(self) -> list[Fault]:
        """Return everything that no correct store could have told."""
        return check_set(self.operations) + check_registers(self.operations)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that a correct store does not tell.

    kind : ``lost``, ``doubled``, ``stale``, ``phantom`` (never asked for, or failed), ``order`` (a register's answers
        fit no order of its operations), ``undecided`` (the search was given up)
    """

    kind: Literal["lost", "doubled", "stale", "phantom", "order", "undecided"]
    what: Any
    detail: str


# The set


def check_set(operations: Iterable[Operation]) -> list[Fault]:
    """Check each set's appends against its scans: nothing lost, doubled, invented, or seen and then not seen.

    A value whose append ended before a scan began, or that a scan saw which ended before, has to be in it.
    """
    of_key: dict[Any, list[Operation]] = defaultdict(list)
    for op in operations:
        if op.kind in ("append", "scan"):
            of_key[op.key].append(op)
    return [fault for ops in of_key.values() for fault in _check_one_set(ops)]


def _check_one_set(operations: list[Operation]) -> list[Fault]:
    appends = {op.value: op for op in operations if op.kind == "append"}
    scans = sorted((op for op in operations if op.kind == "scan" and op.outcome == "ok"), key=lambda op: op.start)
    faults: dict[tuple[str, Any], Fault] = {}
    known_from = {value: op.end for value, op in appends.items() if op.outcome == "ok"}
    for number, scan in enumerate(scans):
        seen = Counter(scan.value)
        for fault in _wrong_in(scan, seen, appends, known_from, last=number == len(scans) - 1):
            faults.setdefault((fault.kind, fault.what), fault)
        for value in seen:
            known_from[value] = min(known_from.get(value, math.inf), scan.end)
    return list(faults.values())


def _wrong_in(
    scan: Operation, seen: Counter[Any], appends: dict[Any, Operation], known_from: dict[Any, float], *, last: bool
) -> Iterable[Fault]:
    for value, count in seen.items():
        append = appends.get(value)
        if append is None or append.outcome == "failed" or append.start > scan.end:
            why = "which no one appended" if append is None else "whose append failed or had not begun"
            yield Fault("phantom", value, f"a scan saw {value!r}, {why}")
        if count > 1:
            yield Fault("doubled", value, f"a scan saw {value!r} {count} times")
    for value, from_s in known_from.items():
        if from_s < scan.start and value not in seen:
            late = f"{scan.start - from_s:.3f} s after it was acknowledged or seen"
            yield Fault("lost" if last else "stale", value, f"a scan that began {late} misses {value!r}")


# Registers


def check_registers(operations: Iterable[Operation]) -> list[Fault]:
    """Check each key's operations for linearizability, beginning with no row."""
    of_key: dict[Any, list[Operation]] = defaultdict(list)
    for op in operations:
        if op.kind not in ("append", "scan") and op.outcome != "failed":
            of_key[op.key].append(op)
    return [fault for key, ops in of_key.items() if (fault := _check_register(key, ops)) is not None]


def _step(op: Operation, state: Any) -> tuple[bool, Any]:
    """Whether the operation fits the state, and what it leaves."""
    if op.kind == "read":
        return state == op.value, state
    if op.kind == "write":
        return True, op.value
    if op.kind == "insert":
        return state is None, op.value
    if op.kind == "increment":
        return True, None if state is None else state + 1
    return True, None


def _check_register(key: Any, operations: list[Operation]) -> Fault | None:
    """Search an order that fits; a state of the search is (operations done, what the register holds)."""
    # An unanswered read says nothing.
    ops = sorted((op for op in operations if op.kind != "read" or op.outcome == "ok"), key=lambda op: op.start)
    must = sum(1 << n for n, op in enumerate(ops) if op.outcome == "ok")
    stack: list[tuple[int, Any]] = [(0, None)]
    been = set(stack)
    furthest, furthest_state = 0, None
    while stack:
        done, state = stack.pop()
        done = _with_reads(ops, done, state)
        if done & must == must:
            return None
        if (done & must).bit_count() > (furthest & must).bit_count():
            furthest, furthest_state = done, state
        for n in _candidates(ops, done):
            fits, after = _step(ops[n], state)
            found = (done | 1 << n, after)
            if fits and found not in been:
                been.add(found)
                stack.append(found)
        if len(been) > STATES_MAX:
            return Fault("undecided", key, f"{len(ops)} operations, {len(been)} states looked at")
    return Fault("order", key, _explain(ops, furthest, furthest_state))


def _candidates(ops: list[Operation], done: int) -> list[int]:
    """What may come next: whatever began before the first end of all that is not done."""
    found: list[int] = []
    first_end = math.inf
    for n, op in enumerate(ops):
        if op.start > first_end:
            break
        if not done >> n & 1:
            found.append(n)
            first_end = min(first_end, op.end)
    return [n for n in found if ops[n].start <= first_end]


def _with_reads(ops: list[Operation], done: int, state: Any) -> int:
    """A read that may come next and fits changes nothing, so it is done at once."""
    while True:
        fit = [n for n in _candidates(ops, done) if ops[n].kind == "read" and ops[n].value == state]
        if not fit:
            return done
        for n in fit:
            done |= 1 << n


def _explain(ops: list[Operation], done: int, state: Any) -> str:
    left = [ops[n] for n in _candidates(ops, done)]
    told = ", ".join(f"{op.kind} {op.value!r} [{op.start:.4f}, {op.end:.4f}] {op.outcome}" for op in left[:6])
    return f"after {done.bit_count()} of {len(ops)} operations the row is {state!r}, and none of these fits: {told}"
