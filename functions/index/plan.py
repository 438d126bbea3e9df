"""What a refresh of an index does, decided from what there is: no I/O.

Files that no segment covers become a segment. When more than `CLASS_MAX` segments are of one size class, they become
one; so a file's keys are read about once for each class, and a table has few segments. A segment most of whose rows
have left the table is built anew from what is left.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["CLASS_MAX", "Group", "plan_groups"]

CLASS_MAX = 4
_FACTOR = 4
_ALIVE_MIN = 0.5
_SMALLEST = 1 << 14
"""Rows; smaller segments are all of one class."""


@dataclass(frozen=True)
class Group:
    """Files that share a segment.

    files : their numbers in the snapshot: int64[f]
    n_rows : of these files, about
    segments : numbers of the index's segments that the group takes the place of; one that stays as it is has itself
    is_built : whether the segment is there already
    """

    files: np.ndarray
    n_rows: int
    segments: tuple[int, ...] = ()
    is_built: bool = False


def plan_groups(
    n_rows: np.ndarray,
    covered: Sequence[np.ndarray],
    shares: Sequence[float],
    skipped: np.ndarray,
    *,
    rows_max: int,
    as_one: bool = False,
) -> list[Group]:
    """Return the groups that the index is to have.

    Parameters
    ----------
    n_rows : int64[n_files] of the snapshot, about
    covered : for each segment, the numbers of the snapshot's files that it covers; none: it cannot be used
    shares : for each segment, of its files' bytes, how many are still in the table
    skipped : bool[n_files], files that no segment can cover
    rows_max : a group that has half as many rows is merged no more
    as_one : merge what can be merged, whatever its size
    """
    left = ~skipped
    groups: list[Group] = []
    dead: list[int] = []
    for number, (files, share) in enumerate(zip(covered, shares, strict=True)):
        if len(files) and share >= _ALIVE_MIN:
            groups.append(Group(files, int(n_rows[files].sum()), (number,), True))
            left[files] = False
        else:
            dead.append(number)
    fresh = np.flatnonzero(left)
    if len(fresh) or dead:
        groups.append(Group(fresh, int(n_rows[fresh].sum()), tuple(dead)))
    return _as_one(groups, rows_max) if as_one else _by_class(groups, rows_max)


def _as_one(groups: list[Group], rows_max: int) -> list[Group]:
    small = [each for each in groups if not _is_full(each, rows_max)]
    if len(small) < 2:
        return groups
    return [each for each in groups if _is_full(each, rows_max)] + [_merged(small)]


def _by_class(groups: list[Group], rows_max: int) -> list[Group]:
    while True:
        classes: dict[int, list[Group]] = defaultdict(list)
        for each in groups:
            if len(each.files) and not _is_full(each, rows_max):
                classes[_class(each.n_rows)].append(each)
        crowded = next((each for each in classes.values() if len(each) > CLASS_MAX), None)
        if crowded is None:
            return groups
        chosen = set(map(id, crowded))
        groups = [each for each in groups if id(each) not in chosen] + [_merged(crowded)]


def _is_full(group: Group, rows_max: int) -> bool:
    return group.is_built and 2 * group.n_rows >= rows_max


def _class(n_rows: int) -> int:
    return max(0, math.ceil(math.log(max(n_rows, 1) / _SMALLEST, _FACTOR)))


def _merged(groups: Sequence[Group]) -> Group:
    return Group(
        np.sort(np.concatenate([each.files for each in groups])),
        sum(each.n_rows for each in groups),
        tuple(number for each in groups for number in each.segments),
    )
