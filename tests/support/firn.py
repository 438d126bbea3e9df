"""The command ``firn`` as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["Done", "environment", "firn", "program"]

Done = subprocess.CompletedProcess[bytes]


def program() -> str:
    """Return the path of the installed command."""
    return str(Path(sys.executable).parent / "firn")


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without its ``FIRN_`` and AWS variables, and with ``variables``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FIRN_", "AWS_"))}
    return kept | variables


def firn(*arguments: str, stdin: str = "", cwd: Path | None = None, **variables: str) -> Done:
    """Run ``firn`` with arguments to its end."""
    return subprocess.run(
        [program(), *arguments],
        input=stdin.encode(),
        capture_output=True,
        cwd=cwd,
        env=environment(**variables),
        timeout=120,
        check=False,
    )
