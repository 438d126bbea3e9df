"""Becomes a program of the stack, after it recorded itself: ``RECORD LOG IDENTITY COMMAND…``.

Its own process, so that a record exists before the program does, whatever happens to who started it.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from stack_process import write_record


def main(record: str, log: str, identity: str, *command: str) -> None:
    """Record this process, send its words to the log, and become the command."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    write_record(Path(record), identity)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]} cannot be started: {error.strerror}")


if __name__ == "__main__":
    main(*sys.argv[1:])
