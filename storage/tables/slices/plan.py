"""Which bytes of a file hold some rows of some columns."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from storage.errors import InvalidError
from storage.tables.slices.layout import Area, Chunks, FileLayout, Piece, Slice, SliceRead, Span

__all__ = ["RANGE_BYTES_MAX", "plan_reads"]

NEAR_BYTES = 128 << 10
"""Ranges no farther apart are read as one: the bytes between cost less than another request."""
WASTE_MAX = 0.25
"""Farther ones too, as long as what lies between is no more than this part of what is needed."""
NEAR_PAGES = 4
"""Rows that are fewer pages apart are decoded together: pages cost less than another row group in memory."""
RANGE_BYTES_MAX = 16 << 20


def plan_reads(layout: FileLayout, slices: Sequence[Slice], columns: Sequence[str]) -> SliceRead:
    """Return what to read for the rows of ``slices`` (ascending, disjoint) and the top-level stored ``columns``.

    A column that the file lacks is left out. Raises `InvalidError` if the file has none of them, or not these rows.
    """
    known = layout.file_schema.numbers
    numbers = tuple(sorted({known[name] for name in columns if name in known}))
    if not numbers and slices:
        raise InvalidError("the file has none of the columns asked for", columns=", ".join(columns))
    if slices and not (slices[0].start >= 0 and slices[-1].limit <= layout.n_rows):
        raise InvalidError("the file does not have these rows", rows=layout.n_rows, limit=slices[-1].limit)
    areas: list[Area] = []
    for group, parts in _by_group(layout.groups, slices):
        n_leaves = layout.file_schema.n_leaves
        if layout.chunks.page_first[group * n_leaves] < layout.chunks.page_first[group * n_leaves + 1]:
            near = NEAR_PAGES * _page_rows(layout, group)
            areas += (_pages(layout, group, start, limit, numbers) for start, limit in _joined(parts, near))
        else:
            areas.append(_whole(layout, group, numbers))
    spans = (
        (span[at], span[at + 1]) for area in areas for piece in area.pieces for span in piece.chunks for at in (0, 2)
    )
    ranges = tuple(_ranges(spans))
    return SliceRead(ranges, sum(limit - start for start, limit in ranges), tuple(areas))


def _by_group(group_rows: np.ndarray, slices: Sequence[Slice]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield each row group that holds rows of the slices, with these rows, counted from its first."""
    if not slices:
        return
    if len(slices) == 1:
        group = int(group_rows.searchsorted(slices[0].start, "right")) - 1
        base, end = int(group_rows[group]), int(group_rows[min(group + 1, len(group_rows) - 1)])
        if slices[0].limit <= end:  # one key's rows; numpy takes longer than all that is left to do
            if slices[0].limit > slices[0].start:
                yield group, [(slices[0].start - base, slices[0].limit - base)]
            return
    starts = np.array([part.start for part in slices])
    limits = np.array([part.limit for part in slices])
    first = np.searchsorted(group_rows, starts, side="right") - 1
    last = np.searchsorted(group_rows, limits, side="left") - 1
    found: dict[int, list[tuple[int, int]]] = {}
    for start, limit, low, high in zip(starts.tolist(), limits.tolist(), first.tolist(), last.tolist(), strict=True):
        for group in range(low, high + 1 if limit > start else low):
            base, end = int(group_rows[group]), int(group_rows[group + 1])
            if end > base:
                found.setdefault(group, []).append((max(start, base) - base, min(limit, end) - base))
    yield from sorted(found.items())


def _page_rows(layout: FileLayout, group: int) -> int:
    """Rows of a page of the row group's first leaf, on average."""
    at = group * layout.file_schema.n_leaves
    n_pages = int(layout.chunks.page_first[at + 1] - layout.chunks.page_first[at])
    return int(layout.groups[group + 1] - layout.groups[group]) // n_pages


def _joined(parts: Iterable[tuple[int, int]], near: int) -> list[tuple[int, int]]:
    """Join parts that are fewer than ``near`` rows apart."""
    out: list[tuple[int, int]] = []
    for start, limit in parts:
        if out and start - out[-1][1] < near:
            out[-1] = (out[-1][0], max(out[-1][1], limit))
        else:
            out.append((start, limit))
    return out


def _whole(layout: FileLayout, group: int, numbers: tuple[int, ...]) -> Area:
    """The row group, entire."""
    start, limit = int(layout.groups[group]), int(layout.groups[group + 1])
    n_rows, chunks, schema = limit - start, layout.chunks, layout.file_schema
    base = group * schema.n_leaves
    spans: list[Span] = []
    for number in numbers:
        column = schema.columns[number]
        for at in range(base + column.first_leaf, base + column.first_leaf + len(column.leaves)):
            first, head, size = int(chunks.start[at]), int(chunks.head[at]), int(chunks.size[at])
            values = n_rows + int(chunks.extra[at])
            spans.append((first, first + head, first + head, first + size, values, int(chunks.codec[at])))
    return Area(start, limit, (Piece(numbers, start, limit, spans),))


def _pages(layout: FileLayout, group: int, start: int, limit: int, numbers: tuple[int, ...]) -> Area:
    """The pages of each column that hold rows [start, limit) of the row group; columns of like bounds together."""
    base_row, n_rows = int(layout.groups[group]), int(layout.groups[group + 1] - layout.groups[group])
    members: dict[tuple[int, int], list[int]] = {}
    spans: dict[tuple[int, int], list[Span]] = {}
    base = group * layout.file_schema.n_leaves
    firsts = layout.chunks.page_first[base : base + layout.file_schema.n_leaves + 1].tolist()
    for number in numbers:
        leaves = _leaf_pages(layout, base, firsts, number)
        bounds = _bounds([rows for _at, _first, rows in leaves], start, limit, n_rows)
        members.setdefault(bounds, []).append(number)
        found = spans.setdefault(bounds, [])
        for many, (at, first, rows) in zip(layout.file_schema.columns[number].repeated, leaves, strict=True):
            # How many values a repeated leaf has in some of its pages nobody says; readers stop at the last page.
            values = n_rows + layout.chunks.extra.item(at) if many else bounds[1] - bounds[0]
            page, page_limit = bisect_left(rows, bounds[0]), bisect_left(rows, bounds[1])
            found.append(_span(layout.chunks, at, first, page, page_limit, values))
    pieces = tuple(
        Piece(tuple(members[low, high]), base_row + low, base_row + high, spans[low, high]) for low, high in members
    )
    # Just these rows: the pages of two areas may overlap, and no row is answered twice.
    return Area(base_row + start, base_row + limit, pieces)


def _leaf_pages(
    layout: FileLayout, base: int, firsts: Sequence[int], number: int
) -> list[tuple[int, int, list[int]]]:  # fmt: skip
    """Return (chunk, its first page, first row of each of its pages) of each leaf of a column.

    Parameters
    ----------
    base : the first chunk of the row group
    firsts : the first page of each chunk of the row group, and the limit of the last one's
    """
    column = layout.file_schema.columns[number]
    page_row, leaves = layout.chunks.page_row, range(column.first_leaf, column.first_leaf + len(column.leaves))
    return [(base + leaf, firsts[leaf], page_row[firsts[leaf] : firsts[leaf + 1]].tolist()) for leaf in leaves]


def _bounds(rows: Sequence[list[int]], start: int, limit: int, n_rows: int) -> tuple[int, int]:
    """Return the nearest rows around [start, limit) at which a page begins in every leaf."""
    common = rows[0] if len(rows) == 1 else sorted(set(rows[0]).intersection(*rows[1:]))
    after = bisect_left(common, limit)
    return common[bisect_right(common, start) - 1], common[after] if after < len(common) else n_rows


def _span(chunks: Chunks, at: int, first: int, page: int, page_limit: int, values: int) -> Span:
    """Pages [page, page_limit) of a chunk whose first page is ``first`` of the file's, and its dictionary if needed."""
    start, last = chunks.start.item(at), first + page_limit - 1
    head = chunks.head.item(at) if page < chunks.coded.item(at) else 0
    end = chunks.page_start.item(last) + chunks.page_size.item(last)
    return start, start + head, chunks.page_start.item(first + page), end, values, chunks.codec.item(at)


def _ranges(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield ascending, disjoint ranges that cover the spans, near ones as one, none longer than `RANGE_BYTES_MAX`."""
    start = limit = waste = -1
    for span_start, span_limit in sorted(spans):
        if span_start >= span_limit:
            continue
        gap = max(0, span_start - limit)
        useful = limit - start - waste + span_limit - max(span_start, limit)
        near = gap <= NEAR_BYTES or waste + gap <= WASTE_MAX * useful
        if start >= 0 and near and max(limit, span_limit) - start <= max(RANGE_BYTES_MAX, limit - start):
            limit, waste = max(limit, span_limit), waste + gap
            continue
        if start >= 0:
            yield from _cut(start, limit)
            span_start = max(span_start, limit)
        start, limit, waste = span_start, max(span_limit, span_start), 0
    if start >= 0:
        yield from _cut(start, limit)


def _cut(start: int, limit: int) -> Iterator[tuple[int, int]]:
    for at in range(start, limit, RANGE_BYTES_MAX):
        yield at, min(at + RANGE_BYTES_MAX, limit)
