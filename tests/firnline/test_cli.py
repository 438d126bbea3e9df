"""``firn`` as a real process: formats, exit codes, scripts, a served lake."""

import io
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from firnline.cli.app import firn as app
from tests.support.firn import environment, firn, program

ROWS = "SELECT * FROM (VALUES (1, 'a'), (2, NULL)) AS t(n, s) ORDER BY n"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lake with one table, ``numbers``."""
    folder = tmp_path_factory.mktemp("lake")
    pq.write_table(pa.table({"n": list(range(1000))}), folder / "numbers.parquet")
    done = firn(
        "sql", "-l", str(folder), f"CREATE EXTERNAL TABLE numbers STORED AS parquet LOCATION '{folder}/numbers.parquet'"
    )
    assert done.returncode == 0, done.stderr
    return str(folder)


def test_a_statement_prints_a_table(lake: str) -> None:
    done = firn("sql", "--lake", lake, ROWS)
    assert done.stdout.decode() == " n  s\n ─  ────\n 1  a\n 2  NULL\n(2 rows)\n"
    assert (done.returncode, done.stderr) == (0, b"")


def test_every_machine_format_is_what_it_says(lake: str) -> None:
    found = {
        form: firn("sql", "-l", lake, "-f", form, ROWS).stdout for form in ("json", "ndjson", "csv", "arrow", "parquet")
    }
    answer = json.loads(found["json"])
    assert answer["rows"] == [[1, "a"], [2, None]]
    assert answer["receipt"]["rows"] == answer["row_count"] == 2
    assert found["ndjson"] == b'{"n":1,"s":"a"}\n{"n":2,"s":null}\n'
    assert found["csv"] == b"n,s\r\n1,a\r\n2,\r\n"
    assert pa.ipc.open_stream(found["arrow"]).read_all().num_rows == 2
    assert pq.read_table(io.BytesIO(found["parquet"])).num_rows == 2


def test_an_answer_goes_to_a_file(lake: str, tmp_path: Path) -> None:
    done = firn("sql", "-l", lake, "-f", "parquet", "-o", str(tmp_path / "out.parquet"), "SELECT * FROM numbers")
    assert (done.returncode, done.stdout) == (0, b"")
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 1000


def test_a_script_on_stdin_ends_at_its_first_error(lake: str) -> None:
    script = """SELECT 1 AS one; -- a comment; with a semicolon

SELECT ';' AS two;
SELECT
  nothing
FROM numbers; SELECT 3 AS three;"""
    done = firn("sql", "-l", lake, stdin=script)
    assert done.returncode == 1
    assert b"one" in done.stdout and b"two" in done.stdout and b"three" not in done.stdout
    error = done.stderr.decode().splitlines()
    assert error[0].startswith("SqlError: no such column: nothing")
    assert error[-2:] == ["  line 5:   nothing", "            ^"]


def test_parameters_and_limits_are_options(lake: str) -> None:
    done = firn("sql", "-l", lake, "-f", "csv", "SELECT :x + 1 AS y", "--param", "x=41")
    assert done.stdout == b"y\r\n42\r\n"
    done = firn("sql", "-l", lake, "SELECT * FROM numbers", "--max-rows", "10")
    assert done.returncode == 1
    assert done.stderr.startswith(b"LimitError: ")


def test_tables_are_listed(lake: str) -> None:
    done = firn("tables", "-l", lake, "-f", "ndjson")
    row = json.loads(done.stdout)
    assert (row["namespace"], row["name"], row["format"]) == ("default", "numbers", "parquet")


@pytest.mark.parametrize(
    "arguments",
    [("sql", "--format", "xml", "SELECT 1"), ("frobnicate",), ("sql", "SELECT 1", "--timeout", "soon"), ("serve", "x")],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = firn(*arguments)
    assert done.returncode == 2
    assert b"Usage: firn" in done.stderr and b"Traceback" not in done.stderr


def test_a_misspelt_variable_is_wrong_usage() -> None:
    done = firn("sql", "SELECT 1", FIRN_LAEK="x")
    assert done.returncode == 2
    assert b"did you mean FIRN_LAKE?" in done.stderr


def test_errors_are_messages_and_never_traces(lake: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for arguments in (
        ("sql", "-l", lake, "SELECT * FROM parquet('/nowhere/x.parquet')"),
        ("sql", "-l", str(tmp_path / "file"), "SELECT 1"),
        ("sql", "-l", "http://127.0.0.1:9", "SELECT 1"),
        ("sql", "-l", "gopher://x", "SELECT 1"),
        ("token", "list", "-l", "http://127.0.0.1:9"),
        ("serve", "-l", lake, "--host", "0.0.0.0", "--port", "0"),
        ("serve", "-l", lake, "--host", "nowhere.invalid", "--require-tokens"),
    ):
        done = firn(*arguments)
        assert done.returncode == 1, arguments
        assert re.match(rb"\w+Error: .", done.stderr), done.stderr
        assert b"Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_error(lake: str) -> None:
    command = f"{program()} sql -l {lake} -f csv 'SELECT * FROM range(300000)' | head -2"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, env=environment(), check=False
    )
    assert done.stdout.count(b"\n") == 2
    assert done.stderr == b""


def test_an_interrupt_cancels_and_says_so(lake: str) -> None:
    endless = "SELECT count(*) FROM range(10000000) a CROSS JOIN range(10000000) b WHERE a.value + b.value < 0"
    process = subprocess.Popen(
        [program(), "sql", "-l", lake, "SELECT 1 AS one; " + endless],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None and process.stdout.readline().strip() == b"one"
    timer = threading.Timer(1, os.kill, (process.pid, signal.SIGINT))
    timer.start()
    _out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == b"cancelled\n"


@pytest.mark.parametrize("command", [(), ("sql",), ("serve",), ("tables",), ("token", "create"), ("demo",)])
def test_every_command_has_help_with_examples(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0
    assert "Examples:" in done.stdout


def test_the_version_is_the_packages() -> None:
    assert re.fullmatch(rb"firn \d+\.\d+\.\d+\n", firn("--version").stdout)


@pytest.fixture(scope="module")
def served(lake: str) -> Iterator[tuple[str, str]]:
    """The URL of a server that requires tokens, and a reader's token."""
    done = firn("token", "create", "--role", "reader", "--name", "tests", "-l", lake)
    token = done.stdout.decode().strip()
    assert token.startswith("firn_"), done.stderr
    command = [program(), "serve", "-l", lake, "--port", "0", "--require-tokens"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment())
    try:
        assert process.stdout is not None
        ready = process.stdout.readline().decode()
        assert ready.startswith("listening on http://"), ready
        yield ready.split()[-1], token
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode in (0, -signal.SIGTERM)


def test_a_served_lake_answers_the_same_commands(served: tuple[str, str]) -> None:
    url, token = served
    done = firn("sql", "-l", url, "-f", "csv", "SELECT count(*) AS n FROM numbers", FIRN_TOKEN=token)
    assert (done.stdout, done.stderr) == (b"n\r\n1000\r\n", b"")
    assert json.loads(firn("tables", "-l", url, "--token", token, "-f", "ndjson").stdout)["name"] == "numbers"


def test_a_served_lake_wants_the_token_and_holds_its_role(served: tuple[str, str]) -> None:
    url, token = served
    assert firn("sql", "-l", url, "SELECT 1").stderr.startswith(b"UnauthenticatedError: ")
    assert firn("sql", "-l", url, "DROP TABLE numbers", FIRN_TOKEN=token).stderr.startswith(b"ForbiddenError: ")
    assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200


def test_a_served_lake_reaches_its_own_folder_only(served: tuple[str, str], lake: str) -> None:
    url, token = served
    inside = f"SELECT count(*) AS n FROM parquet('{lake}/numbers.parquet')"
    assert firn("sql", "-l", url, "-f", "csv", inside, FIRN_TOKEN=token).stdout == b"n\r\n1000\r\n"
    done = firn("sql", "-l", url, "SELECT * FROM parquet('/etc/passwd')", FIRN_TOKEN=token)
    assert done.stderr.startswith(b"ForbiddenError: ")


def test_a_revoked_token_is_gone(lake: str) -> None:
    token = firn("token", "create", "--role", "writer", "--expires", "1h", "-l", lake).stdout.decode().strip()
    token_id = token.split("_")[1]
    listed = firn("token", "list", "-l", lake).stdout.decode()
    assert token_id in listed and token not in listed
    assert firn("token", "revoke", token_id, "-l", lake).returncode == 0
    assert token_id not in firn("token", "list", "-l", lake).stdout.decode()
    assert firn("token", "revoke", token_id, "-l", lake).stderr.startswith(b"NotFoundError: ")
