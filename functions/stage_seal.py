"""Which engine made a plan. A plan's encoding is of one version of the engine, and the engine's hash, which says what
meets in a join, may be another on another kind of processor: tasks of one statement need one engine.
"""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version

from functions.plan_proto import SEAL, fields_of, join_fields
from storage.errors import CorruptError, UnsupportedError

__all__ = ["engine", "opened", "sealed"]


@cache
def engine() -> str:
    """Return what this process's engine is, such as ``datafusion 55.0.0 x86_64``."""
    return f"datafusion {version('datafusion')} {platform.machine()}"


def sealed(plan: bytes) -> bytes:
    """Return an encoded plan with the name of this process's engine."""
    return plan + join_fields([(SEAL, engine().encode())]) if plan else plan


def opened(plan: bytes) -> bytes:
    """Return the plan without the name. Raises `UnsupportedError` if another engine made it; a plan without a name
    is taken as it is."""
    fields = list(fields_of(plan))
    names = [value for field, value in fields if field == SEAL]
    if not names:
        return plan
    if not isinstance(names[-1], bytes):
        raise CorruptError("a plan whose engine has no name", engine=names[-1])
    if names[-1] != engine().encode():
        raise UnsupportedError(
            "the plan was made by another engine; deploy one version to the coordinator and all workers, "
            "on one kind of processor",
            plan=names[-1].decode(errors="replace"), worker=engine(), differs="engine",
        )  # fmt: skip
    return join_fields([each for each in fields if each[0] != SEAL])
