"""The interactive shell in a real terminal (a pty), typed at as a person would."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.firn import environment, firn, program

ENDLESS = "SELECT count(*) FROM range(10000000) a CROSS JOIN range(10000000) b WHERE a.value + b.value < 0;"
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>]")


class Terminal:
    """A shell in a terminal of 120 × 40."""

    def __init__(self, lake: Path) -> None:
        primary, secondary = pty.openpty()
        fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        os.set_blocking(primary, False)
        variables = environment(TERM="xterm", FIRN_HISTORY=str(lake / "history"))
        self.process = subprocess.Popen(
            [program(), "sql", "--lake", str(lake)],
            stdin=secondary,
            stdout=secondary,
            stderr=secondary,
            env=variables,
            start_new_session=True,
        )
        os.close(secondary)
        self._fd = primary
        self.text = ""

    def type(self, text: str) -> None:
        """Type text; what was seen before is forgotten."""
        self.text = ""
        os.write(self._fd, text.encode())

    def wait_for(self, expected: str, timeout_s: float = 30) -> str:
        """Read until the text is seen."""
        deadline = time.monotonic() + timeout_s
        while not re.search(expected, self.text):
            left = deadline - time.monotonic()
            assert left > 0, f"{expected!r} did not come:\n{self.text}"
            if select.select([self._fd], [], [], left)[0]:
                self._read()
        return self.text

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # the shell has ended
            data = b""
            time.sleep(0.05)
        if b"\x1b[6n" in data:
            os.write(self._fd, b"\x1b[1;1R")  # where is the cursor?
        self.text += _ANSI.sub("", data.decode("utf-8", "replace")).replace("\r", "")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)
        os.close(self._fd)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    pq.write_table(pa.table({"first_column": [1, 2, 3]}), tmp_path / "t.parquet")
    done = firn(
        "sql", "-l", str(tmp_path), f"CREATE EXTERNAL TABLE things STORED AS parquet LOCATION '{tmp_path}/t.parquet'"
    )
    assert done.returncode == 0, done.stderr
    terminal = Terminal(tmp_path)
    try:
        terminal.wait_for("firn>")
        yield terminal
    finally:
        terminal.close()


def test_statements_commands_errors_and_leaving(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type("SELECT 40 +\r")
    terminal.wait_for("->")
    terminal.type("2 AS answer;\r")
    terminal.wait_for(r"42\n.*\(1 row, [\d.]+ m?s\)")
    terminal.type("SELECT nothing FROM things;\r")
    terminal.wait_for(r"SqlError: no such column: nothing.*\n(.*\n)*.*\^")
    terminal.type("\\d\r")
    terminal.wait_for("things +parquet")
    terminal.type("\\d things\r")
    terminal.wait_for("first_column +Int64")
    terminal.type("CREATE INDEX quick ON things (first_column);\r")
    terminal.wait_for("created locator index")
    terminal.type("\\d things\r")
    terminal.wait_for(r"index quick \(first_column\): locator, ready")
    terminal.type("\\timing off\r")
    terminal.wait_for("timing is off")
    terminal.type("\\format csv\r")
    terminal.wait_for("format is csv")
    terminal.type("SELECT 1 AS a, 'x,y' AS b;\r")
    terminal.wait_for('a,b\n1,"x,y"')
    terminal.type("\\nonsense\r")
    terminal.wait_for("no such command")
    terminal.type("\\q\r")
    assert terminal.process.wait(30) == 0
    assert "SELECT 40 +" in (tmp_path / "history").read_text()


def test_ctrl_c_cancels_the_statement_and_not_the_shell(terminal: Terminal) -> None:
    terminal.type(ENDLESS + "\r")
    terminal.wait_for(r"[\d.]+ s, Ctrl-C cancels")
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.wait_for("cancelled")
    terminal.type("SELECT 'still' || ' here' AS s;\r")
    terminal.wait_for("still here")
    terminal.type("SELECT half")
    terminal.wait_for("half")
    terminal.type("\x03")
    terminal.wait_for("firn>")
    terminal.type("\x04")
    assert terminal.process.wait(30) == 0


def test_tab_completes_columns_of_the_catalog(terminal: Terminal) -> None:
    terminal.type("\\d\r")
    terminal.wait_for("things +parquet")
    time.sleep(1)
    terminal.type("SELECT sum(first_c\t")
    terminal.wait_for("olumn")
    terminal.type(") AS total FROM thin\t")
    terminal.wait_for("gs")
    terminal.type(";\r")
    terminal.wait_for(r"total\n.*\n +6")
