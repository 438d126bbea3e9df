"""The local stack, without Docker: ``python localstack/stack.py up|down|status|logs`` (``make up`` and so on).

etcd, an S3 API, the log service, workers and the endpoint, as processes of this machine that listen on the loopback
only. ``up`` starts what does not run and leaves alone what does; asked twice it does nothing, asked after a part was
killed it starts that part again. What it began and could not finish, it ends. ``down`` ends the processes that were
recorded, and no other; the data stays unless it is told otherwise.
"""

from __future__ import annotations

import argparse
import fcntl
import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import stack_data
from stack_install import ensure_etcd, functions_here, localstack_python
from stack_layout import Choices, Layout, StackError, choices_of, chosen_ports, remembered_ports, write_private
from stack_parts import BUCKET, FILES_READY, Part, objects, parts, shell_variables
from stack_process import Interrupts, end, read_record, running, start

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("s3", "etcd", "wal", "workers", "endpoint")
_PORTS_OF = {"etcd": ("etcd", "etcd-peer")}
_INTERRUPTS = Interrupts()
_HUNG_S = 10.0
_LOG_LINES = 15
_LOG_BYTES = 16 << 20
_STOP_S = 20.0
_ROOM_BYTES = 128 << 20
"""etcd alone takes half of it when it starts."""


def say(text: str) -> None:
    """Tell whoever asked, if they still listen."""
    with suppress(BrokenPipeError):
        print(text, flush=True)


class Stack:
    """One stack of this machine; use it under `locked`."""

    def __init__(self, layout: Layout, choices: Choices) -> None:
        self._layout, self._choices = layout, choices
        self._mark = str(layout.folder)
        self._archive = layout.data / "objects.tar"
        self._begun: list[tuple[str, subprocess.Popen[bytes]]] = []

    def up(self) -> None:
        """Start what does not run. Raises `StackError`, and ends what it began, where a part does not become ready."""
        ensure_etcd(say)
        self._choices = replace(self._choices, functions=functions_here(self._choices, say))
        localstack = localstack_python(ROOT, self._choices, say)
        ports = chosen_ports(self._layout, self._choices, self._held())
        made = parts(self._layout, ports, self._choices, localstack)
        try:
            for part in made:
                self._have(part)
                if part.name == "s3":
                    self._fill(part.url)
        except BaseException:
            self._undo()
            raise
        self._write_env(shell_variables(self._layout, ports, self._choices))
        self._greet(made)

    def down(self, *, delete_data: bool) -> None:
        """End every part that was recorded; keep the objects unless the data is to be deleted."""
        for name in reversed(NAMES):
            self._end(name, save=not delete_data)
        if delete_data:
            shutil.rmtree(self._layout.data, ignore_errors=True)
            say(f"deleted {self._layout.data}")

    def status(self) -> bool:
        """Print a line for each part; return whether all run."""
        ports, all_run = remembered_ports(self._layout), True
        for name in NAMES:
            record = read_record(self._layout.record(name))
            alive = running(record)
            state = f"runs, pid {record.pid}" if alive and record else "ended" if record else "not started"
            url = f"  http://127.0.0.1:{ports[name]}" if alive and name in ports else ""
            say(f"{name:<9} {state:<18}{url}")
            all_run = all_run and alive
        return all_run

    def _held(self) -> dict[str, int]:
        """Return the ports of the parts that run."""
        before = remembered_ports(self._layout)
        alive = [name for name in NAMES if running(read_record(self._layout.record(name)))]
        return {port: before[port] for name in alive for port in _PORTS_OF.get(name, (name,)) if port in before}

    def _have(self, part: Part) -> None:
        """Have a part that runs as it should, and is ready."""
        record = read_record(self._layout.record(part.name))
        if running(record) and record is not None:
            if record.identity == part.identity and _ready(part, None, _HUNG_S):
                say(f"{part.name} runs: {part.url}")
                return
            why = "is to run otherwise" if record.identity != part.identity else "does not answer"
            say(f"{part.name} {why}; starting it anew")
        # What writes objects ends before the objects are kept.
        for name in reversed(NAMES) if part.name == "s3" else (part.name,):
            self._end(name, save=True)
        for path, text in part.files.items():
            write_private(Path(path), text)
        shortened(self._layout.log(part.name))
        began = time.monotonic()
        with _INTERRUPTS.held():
            process = start(
                part.command, part.environment, self._layout.folder, self._layout.record(part.name),
                self._layout.log(part.name), part.identity,
            )  # fmt: skip
            self._begun.append((part.name, process))
        if not _ready(part, process, part.start_s):
            ended = process.poll() is not None
            what = f"ended with {process.returncode}" if ended else f"was not ready within {part.start_s:.0f} s"
            raise StackError(f"{part.name} {what}; {self._room()}the last lines of {self._layout.log(part.name)}:\n"
                             + _indented(last_lines(self._layout.log(part.name), _LOG_LINES)))  # fmt: skip
        say(f"{part.name} is ready after {time.monotonic() - began:.1f} s: {part.what}, {part.url}")

    def _room(self) -> str:
        """Say it where the disk is nearly full: a part then often cannot even say why it ended."""
        free = shutil.disk_usage(self._layout.folder).free
        return f"{self._layout.folder} has {free >> 20} MB left; " if free < _ROOM_BYTES else ""

    def _fill(self, url: str) -> None:
        """Bring the objects of the last time back, or start an empty lake where they are lost."""
        if self._choices.s3 == "files":
            (objects(self._layout) / BUCKET).mkdir(parents=True, exist_ok=True)
            return
        if stack_data.is_filled(url):
            self._archive.unlink(missing_ok=True)
            return
        lost = not self._archive.exists() and (self._layout.data / "etcd").exists()
        if lost:
            say(
                "the S3 API holds objects in memory and did not end by itself: they are lost, and the lake starts empty"
            )
            shutil.rmtree(self._layout.data / "etcd")
        n_objects = stack_data.fill(url, BUCKET, self._archive)
        if n_objects:
            say(f"brought {n_objects} objects back")
        # From here on the archive is older than what the S3 API holds.
        self._archive.unlink(missing_ok=True)

    def _end(self, name: str, *, save: bool) -> None:
        record = read_record(self._layout.record(name))
        if name == "s3" and save and running(record):
            self._save()
        was_running = running(record)
        gently = end(record, self._mark, within_s=_STOP_S)
        self._layout.record(name).unlink(missing_ok=True)
        if was_running:
            say(f"ended {name}" if gently else f"killed {name}, which did not end within {_STOP_S:.0f} s")

    def _save(self) -> None:
        url = f"http://127.0.0.1:{remembered_ports(self._layout)['s3']}"
        if _answers(url, FILES_READY):
            return
        try:
            if stack_data.is_filled(url):
                say(f"kept {stack_data.save(url, self._archive)} objects in {self._archive}")
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the S3 API, it has to be ended
            if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
                raise StackError(
                    f"the objects cannot be kept in {self._archive}: {error.strerror or error}; the S3 API alone "
                    "has them, and runs on: mend that and ask again, or lose them with DATA=delete"
                ) from None
            say(f"the objects are not kept: {error}")

    def _undo(self) -> None:
        """End what this call began."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for name, process in reversed(self._begun):
            if read_record(self._layout.record(name)) is None and process.poll() is None:
                process.kill()  # it did not come to record itself
            try:
                self._end(name, save=True)
            except StackError as error:
                say(str(error))
                continue
            process.wait()

    def _write_env(self, variables: dict[str, str]) -> None:
        write_private(self._layout.env, "".join(f"export {name}='{value}'\n" for name, value in variables.items()))

    def _greet(self, made: Sequence[Part]) -> None:
        env, firn = os.path.relpath(self._layout.env), os.path.relpath(Path(sys.executable).with_name("firn"))
        other = (
            "" if self._layout.folder == ROOT / "build" / "stack" else f"STACK={os.path.relpath(self._layout.folder)} "
        )
        url = made[-1].url
        say(f"\nthe stack is up: {url}\n\n  . {env}\n  {firn} sql --lake {url} \"SELECT 'hello'\"\n"
            f"  {firn} sql --lake {url} \"CREATE TABLE t (id BIGINT PRIMARY KEY, city VARCHAR)\"\n"
            f"  curl -s {url}/v1/tables/default.t/rows -H 'Content-Type: application/json' "
            "-d '[{\"id\": 1, \"city\": \"Bern\"}]'\n"
            f"  make {other}status · make {other}logs PART=endpoint · make {other}down")  # fmt: skip


def shortened(log: Path) -> None:
    """Put a log that has grown long aside, in place of the one before."""
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_suffix(".before.log"))


def last_lines(path: Path, n_lines: int) -> str:
    """Return the last lines of a file, or nothing where there is none."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-n_lines:])
    except OSError:
        return ""


def _indented(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())


def _ready(part: Part, process: subprocess.Popen[bytes] | None, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            return False
        if _answers(part.url, part.ready):
            return True
        time.sleep(0.1)
    return False


def _answers(url: str, path: str) -> bool:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Hold the stack: one command at a time. Raises `StackError` where another has it."""
    layout.make()
    with (layout.folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StackError(f"another command is at work on the stack in {layout.folder}; wait for its end") from None
        yield


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="stack", description="The local stack, without Docker.")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "stack", help="where it keeps all it has")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start what does not run")
    up.add_argument("--s3", choices=("auto", "localstack", "moto", "files"))
    up.add_argument("--functions", choices=("lambda", "http"))
    up.add_argument("--workers", type=int, metavar="N", help="tasks at once")
    up.add_argument("--port", type=int, help="of the endpoint")
    down = commands.add_parser("down", help="end what was started")
    down.add_argument("--data", choices=("keep", "delete"), default="keep")
    commands.add_parser("status", help="what runs")
    logs = commands.add_parser("logs", help="what the parts said last")
    logs.add_argument("part", nargs="?", choices=NAMES)
    logs.add_argument("--lines", type=int, default=20)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    asked = _arguments(arguments)
    layout = Layout(ROOT, asked.folder.resolve())
    if asked.command == "status":
        return 0 if Stack(layout, Choices()).status() else 1
    if asked.command == "logs":
        for name in [asked.part] if asked.part else NAMES:
            say(f"--- {layout.log(name)}\n{last_lines(layout.log(name), asked.lines)}")
        return 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _INTERRUPTS)
    try:
        with locked(layout):
            if asked.command == "down":
                Stack(layout, Choices()).down(delete_data=asked.data == "delete")
            else:
                choices = choices_of(
                    layout, s3=asked.s3, functions=asked.functions, n_workers=asked.workers, port=asked.port
                )
                Stack(layout, choices).up()
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = f": {error.filename}" if error.filename else f" in {layout.folder}"
        print(f"error: {error.strerror or error}{where}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was begun is ended", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
