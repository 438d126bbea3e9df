"""The files that an encoded plan reads: what a worker checks before it runs a plan that came from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from functions.plan_proto import SCANS, Field, decode, fields_of
from functions.stage_mark import mark_of
from storage.errors import CorruptError

__all__ = ["files_of"]

_CONFIG, _STORE = 1, 8
"""Fields of a scan (its ``FileScanExecConf``, without its file groups), and of that: the object store's URL."""
_FILES, _PATH = 1, 1
"""Fields of a ``FileGroup`` and of a ``PartitionedFile``."""


def files_of(plan: bytes) -> Iterator[str]:
    """Yield the location of each file that a plan scans, as often as it does.

    Raises `UnsupportedError` for a node that is not known, such as one that writes; `CorruptError` for bytes that are
    no plan.
    """
    for node in decode(plan).walk():
        if node.kind not in SCANS or mark_of(node) is not None:  # who reads files to merge is asked for each
            continue
        # Of a field that is there twice the engine takes the last value.
        fields = [each for config in node.data(_CONFIG) for each in fields_of(config)]
        root = _last(fields, _STORE)
        for group in node.groups:
            for file in _all(fields_of(group), _FILES):
                yield _location(root, _last(fields_of(file), _PATH))


def _location(root: bytes, path: bytes) -> str:
    try:
        return root.decode().removesuffix("/") + "/" + path.decode().lstrip("/")
    except UnicodeDecodeError:
        raise CorruptError("a plan names a file by what is no text", path=repr(path[:100])) from None


def _all(fields: Iterable[Field], wanted: int) -> list[bytes]:
    return [value for field, value in fields if field == wanted and isinstance(value, bytes)]


def _last(fields: Iterable[Field], wanted: int) -> bytes:
    return (_all(fields, wanted) or [b""])[-1]
