"""The last resort of the command line: a defect is one line on stderr, a closed pipe is no defect."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["said"]


@contextmanager
def said() -> Iterator[None]:
    """Turn whatever leaves the block into a message and an exit code."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if _debug():
            raise
        print(f"InternalError: {type(error).__name__}: {error}; FIRN_DEBUG=1 shows where", file=sys.stderr)
        sys.exit(1)


def _debug() -> bool:
    from firnline.settings import environment
    from storage.errors import FirnlineError

    try:
        return environment().debug
    except FirnlineError:
        return False
