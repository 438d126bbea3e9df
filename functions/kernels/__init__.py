"""Numba kernels: one algorithm in each file, its source cited at its top; they import numpy and numba only.

Who needs one imports its module by name, late: numba costs a process half a second, and a query that reads a few keys
needs none of it (`functions.index` predicts and probes small batches in plain numpy). `functions.kernels.compiled` says
where their machine code is found, `functions.kernels.precompile` makes it at build time.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec

__all__ = ["pays"]

_WARM = 256
"""Numbers in a batch from which a kernel is faster than numpy in a process that has numba already."""
_COLD = 2_000_000
"""Numbers from which it is worth half a second of import."""


def pays(n: int) -> bool:
    """Return whether a batch of ``n`` numbers is worth a kernel in this process; never where numba is not installed."""
    return n >= (_WARM if "numba" in sys.modules else _COLD) and _installed()


@cache
def _installed() -> bool:
    return find_spec("numba") is not None
