"""One thing that a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, or worth knowing.

    severity : an ``error`` means that rows are lost, unreadable or not seen; a ``warning`` that something may come to
        that; a ``note`` is neither
    where : the thing: a blob's key, a file's location, a table's name
    remedy : what to do
    """

    severity: Literal["error", "warning", "note"]
    where: str
    what: str
    remedy: str
