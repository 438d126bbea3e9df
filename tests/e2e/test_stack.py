"""The local stack starts once, repairs what was killed, leaves nothing that it could not finish, kills its own only.

The main job on it is in `test_main_job.py`. Here S3 is moto and tasks run in ``firn worker``, which start fastest.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.etcd import free_ports
from tests.support.firn import environment
from tests.support.stack import LocalStack

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]

_FAST = ("--s3", "moto", "--functions", "http")
_PARTS = ("s3", "etcd", "wal", "workers", "endpoint")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A stack that runs; a test leaves it running."""
    stack = LocalStack(tmp_path_factory.mktemp("stack") / "s")
    try:
        stack.up(*_FAST)
        yield stack
    finally:
        stack.down("--data", "delete")
    assert stack.processes() == {}
    assert not (stack.folder / "data").exists()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[LocalStack]:
    """A stack that was not started yet."""
    stack = LocalStack(tmp_path / "s")
    yield stack
    stack.down("--data", "delete")
    assert stack.processes() == {}


def _pids(stack: LocalStack) -> dict[str, int]:
    return {part: stack.pid(part) for part in _PARTS}


def _starting(stack: LocalStack, until_line: str) -> subprocess.Popen[str]:
    """Return ``up`` at the moment at which it said a line."""
    process = subprocess.Popen(stack.command("up", *_FAST), env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(until_line):
            return process
    pytest.fail(f"it never said {until_line}")


def test_started_twice_it_is_the_same_stack(stack: LocalStack) -> None:
    before = _pids(stack)
    said = stack.up(*_FAST)
    assert _pids(stack) == before
    assert [f"{part} runs: " in said for part in _PARTS] == [True] * len(_PARTS)
    shown = stack.run("status")
    assert shown.returncode == 0 and shown.stdout.count("runs, pid") == len(_PARTS)
    assert "listening on" in stack.run("logs", "endpoint").stdout
    # What it tells a newcomer to type is for a shell that has not been told of the environment, and for this stack.
    [program] = {line.split()[0] for line in said.splitlines() if " sql --lake " in line}
    assert Path(program).samefile(Path(sys.executable).with_name("firn"))
    assert f"make STACK={os.path.relpath(stack.folder)} down" in said


def test_asked_from_another_shell_it_is_the_same_stack(stack: LocalStack) -> None:
    before = _pids(stack)
    other = environment(PATH=f"/nowhere:{os.environ['PATH']}", LANG="C", HOME="/")
    subprocess.run(stack.command("up", *_FAST), env=other, check=True, capture_output=True, timeout=120)
    assert _pids(stack) == before


def test_objects_that_cannot_be_kept_are_not_lost(stack: LocalStack) -> None:
    stack.sql("CREATE TABLE precious (id BIGINT PRIMARY KEY)")
    s3, in_the_way = stack.pid("s3"), stack.folder / "data" / "objects.draft"
    in_the_way.mkdir()
    done = stack.run("down")
    assert done.returncode == 1 and "the objects cannot be kept in " in done.stderr
    assert stack.pid("s3") == s3 and len(stack.processes()) >= 1
    in_the_way.rmdir()
    stack.up(*_FAST)
    assert stack.pid("s3") == s3
    stack.sql("DROP TABLE precious")


def test_what_only_its_owner_may_know_is_not_readable_by_others(stack: LocalStack) -> None:
    for name in ("env", "secret", "log/wal.log"):
        assert (stack.folder / name).stat().st_mode & 0o077 == 0, name


def test_a_part_that_runs_otherwise_than_asked_is_started_anew_and_the_others_are_not(stack: LocalStack) -> None:
    before = _pids(stack)
    (port,) = free_ports(1)
    said = stack.up(*_FAST, "--port", str(port))
    after = _pids(stack)
    assert stack.url == f"http://127.0.0.1:{port}" and "endpoint is to run otherwise" in said
    assert {part for part in _PARTS if before[part] != after[part]} == {"endpoint"}
    assert stack.sql("SELECT 1 AS one")["rows"] == [[1]]
    stack.up(*_FAST)
    assert stack.url == f"http://127.0.0.1:{port}", "a port is kept"


def test_a_part_that_hangs_is_started_anew(stack: LocalStack) -> None:
    before = stack.pid("wal")
    os.kill(before, signal.SIGSTOP)
    assert "wal does not answer; starting it anew" in stack.up(*_FAST)
    assert stack.pid("wal") != before and before not in stack.processes()


def test_an_object_store_that_was_killed_is_said_to_have_lost_the_lake(stack: LocalStack) -> None:
    stack.sql("CREATE TABLE lost (id BIGINT PRIMARY KEY)")
    stack.kill("s3")
    assert "they are lost, and the lake starts empty" in stack.up(*_FAST)
    assert stack.sql("SHOW TABLES")["rows"] == []
    stack.sql("CREATE TABLE kept (id BIGINT PRIMARY KEY)")
    stack.sql("INSERT INTO kept VALUES (7)")
    assert stack.sql("SELECT * FROM kept")["rows"] == [[7]]


def test_a_lake_in_files_survives_that_everything_is_killed(fresh: LocalStack) -> None:
    fresh.up("--s3", "files", "--functions", "http")
    fresh.sql("CREATE TABLE kept (id BIGINT PRIMARY KEY)")
    fresh.sql("INSERT INTO kept VALUES (1), (2)")
    fresh.sql("OPTIMIZE kept")
    fresh.sql("INSERT INTO kept VALUES (3)")
    for part in reversed(_PARTS):
        fresh.kill(part)
    fresh.up()  # as the last time
    assert fresh.sql("SELECT count(*) FROM kept")["rows"] == [[3]]
    fresh.down()
    assert not list((fresh.folder / "data").glob("*.tar"))
    assert "objects back" not in fresh.up()
    assert fresh.sql("SELECT count(*) FROM kept")["rows"] == [[3]]


def test_two_stacks_run_side_by_side_and_one_command_at_a_time_works_on_one(
    stack: LocalStack, fresh: LocalStack
) -> None:
    starting = _starting(fresh, "s3 is ready")
    refused = fresh.run("up", *_FAST)
    assert refused.returncode == 1 and "another command is at work on the stack" in refused.stderr
    starting.communicate(timeout=120)
    assert starting.returncode == 0
    ports = [json.loads((each.folder / "state.json").read_text())["ports"] for each in (stack, fresh)]
    assert not set(ports[0].values()) & set(ports[1].values())
    before = _pids(stack)
    fresh.down()
    assert _pids(stack) == before and stack.run("status").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("line", ["s3 is ready", "etcd is ready"])
def test_one_that_is_interrupted_while_it_starts_leaves_nothing(
    fresh: LocalStack, number: signal.Signals, line: str
) -> None:
    starting = _starting(fresh, line)
    starting.send_signal(number)
    starting.communicate(timeout=60)
    assert starting.returncode == 130
    assert fresh.processes() == {}


def test_one_that_is_killed_while_it_starts_is_ended_or_gone_on_with(fresh: LocalStack) -> None:
    starting = _starting(fresh, "etcd is ready")
    starting.kill()
    starting.communicate()
    assert fresh.processes()
    fresh.down()
    assert fresh.processes() == {}
    starting = _starting(fresh, "s3 is ready")
    starting.kill()
    starting.communicate()
    fresh.up(*_FAST)
    assert fresh.sql("SELECT 1 AS one")["rows"] == [[1]]


def test_a_part_that_does_not_start_is_named_with_its_last_words_and_nothing_is_left(fresh: LocalStack) -> None:
    (fresh.folder / "data").mkdir(parents=True)
    (fresh.folder / "data" / "objects.tar").write_bytes(b"\0" * 10240)
    (fresh.folder / "data" / "etcd").write_text("no folder")
    done = fresh.run("up", *_FAST)
    assert done.returncode == 1
    assert "error: etcd ended with " in done.stderr and "error listing data dir" in done.stderr
    assert fresh.processes() == {}


def test_a_port_that_somebody_has_is_not_taken(fresh: LocalStack) -> None:
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", 0))
        mine.listen()
        port = mine.getsockname()[1]
        done = fresh.run("up", *_FAST, "--port", str(port))
        assert done.returncode == 1
        assert done.stderr == f"error: port {port}, which PORT asks for, is in use; choose another, or none\n"
        (fresh.folder / "state.json").write_text(json.dumps({"ports": {"s3": port}}))
        starting = _starting(fresh, "s3 is ready")
        starting.send_signal(signal.SIGINT)
        starting.communicate(timeout=60)
        assert json.loads((fresh.folder / "state.json").read_text())["ports"]["s3"] != port


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--workers", "0", "WORKERS is a number from 1 to 1000, not 0"),
        ("--port", "99999", "PORT is a number from 1 to 65535, not 99999"),
    ],
)
def test_a_number_that_cannot_be_is_refused_and_forgotten(
    fresh: LocalStack, option: str, value: str, said: str
) -> None:
    done = fresh.run("up", *_FAST, option, value)
    assert (done.returncode, done.stderr) == (1, f"error: {said}\n")
    assert not (fresh.folder / "choices.json").exists()


def test_a_folder_that_cannot_be_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = LocalStack(tmp_path / "file" / "s").run("up", *_FAST)
    assert (done.returncode, done.stderr) == (1, f"error: Not a directory: {tmp_path / 'file' / 's'}\n")


def test_a_process_that_is_not_the_recorded_one_is_never_killed(fresh: LocalStack) -> None:
    (fresh.folder / "run").mkdir(parents=True)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
        ticks = int(Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(") ")[2].split()[19])
        for part, record in {
            "s3": {"pid": stranger.pid, "started": ticks - 1, "boot": boot, "identity": "x"},
            "etcd": {"pid": stranger.pid, "started": ticks, "boot": "another boot", "identity": "x"},
            "wal": "no record",
        }.items():
            (fresh.folder / "run" / f"{part}.json").write_text(json.dumps(record))
        fresh.down()
        assert stranger.poll() is None
        stranger.kill()
