"""The mark of a scan of files that are merged on read, in a field of the scan that the engine ignores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from functions.plan_proto import Field, Kind, Node, fields_of, join_fields
from storage.errors import CorruptError, InvalidError

__all__ = ["CONFIG", "FILE", "PATH", "PREFIX", "SIZE", "ScanMark", "mark_of", "with_bucket", "with_mark", "with_rows"]

PREFIX: Final = "merge"
"""Of the names of inputs that tell of files rather than being rows of the plan."""
_MARK: Final = 1005
CONFIG, _STORE = 1, 8
"""Fields of a scan, and of its configuration."""
FILE, PATH, SIZE = 1, 1, 2
"""Fields of a file group, and of a file."""


@dataclass(frozen=True, slots=True)
class ScanMark:
    """What a scan's mark says.

    name : of the input that tells of its files, which ``stage`` gives
    bucket : that it reads, once it is narrowed to one partition; None: all
    head : as `functions.merge_wire` has it
    """

    name: str
    stage: int
    bucket: int | None
    head: Mapping[str, Any]


def mark_of(node: Node) -> ScanMark | None:
    """Return the mark of a scan of files to merge; None for any other node. Raises `CorruptError`."""
    marks = node.data(_MARK) if node.kind == Kind.ARROW_SCAN else ()
    if not marks:
        return None
    try:
        return ScanMark(*json.loads(marks[0]))
    except (TypeError, ValueError) as error:
        raise CorruptError("the mark of a scan of files to merge does not decode", reason=str(error)[:200]) from None


def with_mark(node: Node, mark: ScanMark) -> Node:
    """Return a scan with the mark."""
    return node.with_field(_MARK, json.dumps([mark.name, mark.stage, mark.bucket, mark.head]).encode())


def with_bucket(node: Node, bucket: int) -> Node:
    """Return a marked scan as one that reads one bucket; any other node as it is."""
    mark = mark_of(node)
    return node if mark is None else with_mark(node, replace(mark, bucket=bucket))


def with_rows(node: Node, files: Mapping[str, tuple[str, int]]) -> Node:
    """Return the plan with scans of the files that rows were merged into: input → path and bytes.

    Raises `InvalidError` for a scan that has none.
    """
    mark = mark_of(node)
    if mark is None:
        return node.with_inputs([with_rows(child, files) for child in node.inputs])
    found = files.get(mark.name)
    if found is None:
        raise InvalidError("a task lacks an input of its plan", input=mark.name)
    path, n_bytes = found
    config = [each for value in node.data(CONFIG) for each in fields_of(value)]
    file: list[Field] = [(PATH, path.lstrip("/").encode()), (SIZE, n_bytes)]
    kept = [each for each in config if each[0] != _STORE]
    scan = node.with_field(_MARK).with_field(CONFIG, join_fields([*kept, (_STORE, b"file:///")]))
    first = join_fields([(FILE, join_fields(file))])
    return replace(scan, groups=(first, *(b"" for _ in node.groups[1:])))
