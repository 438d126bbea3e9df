"""The scans of an encoded plan: their files, and how wide their columns are.

How many bytes a column takes in a row group is what the file's footer says, where somebody who has it put that into the
plan (`with_sizes`), in a field that the engine ignores; else it is guessed from the plan's statistics, which have the
sizes of decoded columns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from functions.plan_proto import Kind, Node, decode, fields_of
from storage.errors import FirnlineError

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData

__all__ = ["FooterOf", "Scan", "scans_of", "sizes_of_scan", "with_sizes"]

FooterOf: TypeAlias = "Callable[[str, int], FileMetaData | None]"
"""Location and bytes of a file → its footer, if it is at hand."""
_FILES, _SCHEMA, _STATISTICS, _STORE = 1, 2, 6, 8
"""Fields of a file group, and of a scan's configuration."""
_OPTIONS, _GLOBAL, _PUSHDOWN = 4, 1, 5
"""Of a scan, of its options, and of those: whether filters are evaluated while decoding."""
_SIZES = 1006
"""Field of a scan with what `with_sizes` puts there."""
_CHUNKS_MAX, _GROUPS_MAX = 256, 12
"""Column chunks, and row groups, that are looked at to know how wide columns are: a third of a millisecond."""
_PROJECTION = 13
"""Of a scan's configuration: the expressions that it gives."""
_PATH, _SIZE, _RANGE = 1, 2, 5
"""Fields of a file."""
_COLUMNS, _MAX, _MIN, _BYTES = 3, 2, 1, 6
"""Fields of statistics, and of a column's."""
_DECIMAL = 20
_WIDTHS = {6: 4, 7: 8, 8: 4, 11: 8, 14: 4, _DECIMAL: 16}
"""Kinds of numbers and dates as statistics have them: bytes of a plain value."""
_DICTIONARY_BITS = 17
_TEXT_SHARE, _PLAIN_SHARE = 0.5, 0.75
"""What compression leaves of text, and of numbers of a wide range."""


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan of an encoded plan.

    root : URL of its object store
    paths : of its files, once for each part of a file that is read by itself
    n_bytes : of these parts, all columns
    columns : of the files, in their order, each with its share of the bytes as the statistics let it be thought
    late : whether filters are evaluated while it decodes
    read : names of the columns that it gives, or makes what it gives of; None: all
    sizes : of some row groups, the bytes of each column as footers say; empty: not known
    paged : whether the files have an index of their pages; False where sizes are not known
    dictionaries : columns that begin with a dictionary; none where sizes are not known
    files : the location of each path, and the bytes of the whole file
    """

    root: str
    parquet: bool
    paths: tuple[str, ...]
    n_bytes: int
    columns: tuple[tuple[str, float], ...]
    late: bool = False
    read: frozenset[str] | None = None
    sizes: tuple[tuple[int, ...], ...] = ()
    paged: bool = False
    dictionaries: frozenset[str] = frozenset()
    files: tuple[tuple[str, int], ...] = ()

    @property
    def remote(self) -> bool:
        """Whether the files lie in an object store."""
        return not self.root.startswith("file:")


def scans_of(payload: bytes) -> list[Scan]:
    """Return the scans of an encoded plan, in the order in which its metrics have them. Raises as `decode`."""
    return [_scan(node) for node in decode(payload).walk() if node.groups]


def with_sizes(plan: Node, footer_of: FooterOf) -> Node:
    """Return a plan whose scans of object stores say how wide their columns are."""
    if not plan.groups:
        return plan.with_inputs([with_sizes(child, footer_of) for child in plan.inputs])
    scan = sizes_of_scan(_scan(plan), footer_of)
    return plan.with_field(_SIZES, _sizes_mark(scan)) if scan.sizes else plan


def _sizes_mark(scan: Scan) -> bytes:
    return json.dumps([scan.sizes, scan.paged, sorted(scan.dictionaries)], separators=(",", ":")).encode()


def sizes_of_scan(scan: Scan, footer_of: FooterOf) -> Scan:
    """Return a scan of an object store with the sizes of its columns, if footers of its files are at hand."""
    if not (scan.remote and scan.parquet and scan.files and scan.columns):
        return scan
    names = [name for name, _share in scan.columns]
    n_groups = max(1, min(_GROUPS_MAX, _CHUNKS_MAX // len(names)))
    footers = [each for each in (footer_of(*scan.files[at]) for at in _spread(len(scan.files), n_groups)) if each]
    groups = [(footer, group) for footer in footers for group in _spread(footer.num_row_groups, n_groups)]
    known = [_chunks(*groups[at], names) for at in _spread(len(groups), n_groups)]
    sizes = tuple(each for each in known if each)
    if not sizes:
        return scan
    first = groups[0][0].row_group(0)
    chunks = [first.column(leaf) for leaf in range(first.num_columns)] if first.column(0).has_offset_index else []
    dictionaries = frozenset(each.path_in_schema for each in chunks if each.has_dictionary_page)
    return replace(scan, sizes=sizes, paged=bool(chunks), dictionaries=dictionaries)


def _spread(n: int, n_wanted: int) -> list[int]:
    """Return that many of ``n`` places, all if they are fewer, the last one among them only then."""
    return [at * n // n_wanted for at in range(n_wanted)] if n > n_wanted else list(range(n))


def _chunks(footer: FileMetaData, group: int, names: Sequence[str]) -> tuple[int, ...]:
    """Return the bytes of each column in a row group, nothing if the file has others."""
    chunks, totals = footer.row_group(group), dict.fromkeys(names, 0)
    for leaf in range(footer.num_columns):
        chunk = chunks.column(leaf)
        name = chunk.path_in_schema
        top = name if name in totals else name.partition(".")[0]
        if top not in totals:
            return ()
        totals[top] += chunk.total_compressed_size
    return tuple(totals.values())


def _scan(node: Node) -> Scan:
    config = [each for part in node.data(1) for each in fields_of(part)]
    root = b"".join(value for field, value in config if field == _STORE and isinstance(value, bytes))
    columns = tuple(_columns(config))
    files = [dict(fields_of(value)) for group in node.groups for field, value in fields_of(group)
             if field == _FILES and isinstance(value, bytes)]  # fmt: skip
    paths = tuple(_text(file.get(_PATH)) for file in files)
    sizes, paged, dictionaries = next((json.loads(each) for each in node.data(_SIZES)), ((), False, ()))
    return Scan(
        root.decode(errors="replace"), node.kind == Kind.PARQUET_SCAN, paths, sum(map(_part_bytes, files)), columns,
        _is_late(node), _read(config, [name for name, _share in columns]), tuple(map(tuple, sizes)), paged,
        frozenset(dictionaries), tuple(_whole(root, files)),
    )  # fmt: skip


def _whole(root: bytes, files: Sequence[dict[int, int | bytes]]) -> Iterator[tuple[str, int]]:
    start = root.decode(errors="replace").removesuffix("/") + "/"
    for file in files:
        size = file.get(_SIZE, 0)
        yield start + _text(file.get(_PATH)).lstrip("/"), size if isinstance(size, int) else 0


def _read(config: Sequence[tuple[int, int | bytes]], names: Sequence[str]) -> frozenset[str] | None:
    """Return which of the file's columns a projection has, in its expressions too."""
    shown = [value for field, value in config if field == _PROJECTION and isinstance(value, bytes)]
    return frozenset(name for each in shown for name in _named(each, names)) if shown else None


def _named(message: bytes, names: Sequence[str]) -> Iterator[str]:
    """Yield the columns in an expression: messages of a name and its place among the file's columns."""
    try:
        fields = list(fields_of(message))
    except FirnlineError:
        return
    values = dict(fields)
    name, place = _text(values.get(1)), values.get(2, 0)
    if set(values) <= {1, 2} and isinstance(place, int) and place < len(names) and names[place] == name:
        yield name
        return
    for _field, value in fields:
        if isinstance(value, bytes):
            yield from _named(value, names)


def _is_late(node: Node) -> bool:
    options = [value for given in node.data(_OPTIONS) for field, value in fields_of(given) if field == _GLOBAL]
    return any((_PUSHDOWN, 1) in fields_of(each) for each in options if isinstance(each, bytes))


def _part_bytes(file: dict[int, int | bytes]) -> int:
    part, size = file.get(_RANGE), file.get(_SIZE, 0)
    if isinstance(part, bytes):
        ends = dict(fields_of(part))
        start, limit = ends.get(1, 0), ends.get(2, 0)
        if isinstance(start, int) and isinstance(limit, int):
            return limit - start
    return size if isinstance(size, int) else 0


def _columns(config: Sequence[tuple[int, int | bytes]]) -> Iterator[tuple[str, float]]:
    names = [_text(dict(fields_of(column)).get(1)) for column in _messages(config, _SCHEMA, 1)]
    weights = [_weight(dict(fields_of(column))) for column in _messages(config, _STATISTICS, _COLUMNS)]
    if len(weights) != len(names) or None in weights:
        weights = [1.0] * len(names)
    total = sum(each or 0.0 for each in weights) or 1.0
    return ((name, (weight or 0.0) / total) for name, weight in zip(names, weights, strict=True))


def _messages(config: Sequence[tuple[int, int | bytes]], outer: int, inner: int) -> list[bytes]:
    return [value for field, message in config if field == outer and isinstance(message, bytes)
            for number, value in fields_of(message) if number == inner and isinstance(value, bytes)]  # fmt: skip


def _weight(statistics: dict[int, int | bytes]) -> float | None:
    """Return about how many bytes a column takes: numbers of a narrow range lie in a dictionary, others plainly."""
    size = _number(statistics.get(_BYTES))
    lowest, highest = _number(statistics.get(_MIN)), _number(statistics.get(_MAX))
    if size is None:
        return None
    kind = _scalar(statistics.get(_MIN))[0]
    if lowest is None or highest is None or kind not in _WIDTHS:
        return size * _TEXT_SHARE
    bits = math.log2(abs(highest - lowest) + 2)
    row_bytes = bits / 8 if bits <= _DICTIONARY_BITS else min(8, _WIDTHS[kind]) * _PLAIN_SHARE
    return size * row_bytes / _WIDTHS[kind]


def _scalar(precise: int | bytes | None) -> tuple[int, int | bytes | None]:
    """Return the kind and the value of what a statistic says."""
    value = dict(fields_of(precise)).get(2) if isinstance(precise, bytes) else None
    return next(fields_of(value), (0, None)) if isinstance(value, bytes) else (0, None)


def _number(precise: int | bytes | None) -> int | None:
    kind, value = _scalar(precise)
    if kind == _DECIMAL and isinstance(value, bytes):
        digits = dict(fields_of(value)).get(1)
        return int.from_bytes(digits, "big", signed=True) if isinstance(digits, bytes) else None
    return value - (1 << 64) if isinstance(value, int) and value >> 63 else value if isinstance(value, int) else None


def _text(value: int | bytes | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""
