"""A connection that is closed before its streams are read to their end closes them quietly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
import firnline
connection = firnline.connect(sys.argv[1])
streams = [connection.stream("SELECT a.value FROM range(3000) AS a, range(3000) AS b") for _ in range(3)]
for stream in streams:
    next(iter(stream))
connection.close()
"""


def test_streams_that_are_open_end_with_their_connection(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, str(tmp_path)], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
