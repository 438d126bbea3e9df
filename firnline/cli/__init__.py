"""The command ``firn``. Exit codes: 0 done, 1 the statement or the lake failed, 2 wrong usage, 130 interrupted."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line; what goes wrong is a message on stderr, and a Python trace only with ``FIRN_DEBUG=1``."""
    import sys

    try:
        from firnline.cli.app import firn
    except ImportError as error:
        print(f"the command line needs its extra: pip install 'firnline[cli]' ({error})", file=sys.stderr)
        sys.exit(2)
    from firnline.cli.crash import said

    with said():
        firn(prog_name="firn")
