"""What the stack needs beside the checkout's own packages: etcd from Debian, LocalStack and AWS's emulator from PyPI.

LocalStack 4.14.0 is the last release that starts without a token. It runs on Python 3.13 only, in an environment of its
own under ``.tools``, with the packages of its time: later ones break it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from lambda_rie import EmulatorMissingError, emulator
from stack_layout import Choices, StackError

__all__ = ["LOCALSTACK", "ensure_etcd", "functions_here", "localstack_python"]

LOCALSTACK, _AS_OF = "4.14.0", "2026-03-05"
Say = Callable[[str], None]


def ensure_etcd(say: Say) -> None:
    """Have the program etcd. Raises `StackError` where it is not there and cannot be installed."""
    if shutil.which("etcd"):
        return
    if not (shutil.which("apt-get") and os.geteuid() == 0):
        raise StackError("etcd is not installed; as root: apt-get install etcd-server")
    say("installing etcd-server with apt-get")
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "etcd-server"]):
        done = subprocess.run(
            ["env", "DEBIAN_FRONTEND=noninteractive", *command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise StackError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")


def functions_here(choices: Choices, say: Say) -> Literal["lambda", "http"]:
    """Return where tasks run; without AWS's emulator, which is fetched once, in ``firn worker``, and why is said."""
    if choices.functions == "lambda":
        try:
            emulator()
        except EmulatorMissingError as error:
            say(f"{error}; tasks run in firn worker instead of Lambda functions")
            return "http"
    return choices.functions


def localstack_python(root: Path, choices: Choices, say: Say) -> Path | None:
    """Return the Python of LocalStack's environment, made if need be; None: another is the S3 API, and why is said.

    Raises `StackError` where LocalStack was asked for and cannot be had.
    """
    if choices.s3 in ("moto", "files"):
        return None
    home = root / ".tools" / "localstack"
    python, mark = home / "bin" / "python", home / f".installed-{LOCALSTACK}"
    if mark.exists() and _is_python_313(python):
        return python
    found = _find_python_313()
    why = "there is no Python 3.13 for LocalStack" if found is None else _install(root, home, found, say)
    if why is None:
        mark.touch()
        return python
    if choices.s3 == "localstack":
        raise StackError(why)
    say(f"{why}; moto is the S3 API")
    return None


def _install(root: Path, home: Path, python: Path, say: Say) -> str | None:
    """Install LocalStack, and return why not where that fails."""
    uv = root / ".tools" / "bin" / "uv"
    program = str(uv) if uv.exists() else shutil.which("uv")
    if program is None:
        return "there is no uv to install LocalStack with (make setup has one)"
    say(f"installing LocalStack {LOCALSTACK} into {home}")
    shutil.rmtree(home, ignore_errors=True)
    package = f"localstack-core[runtime]=={LOCALSTACK}"
    for command in (
        [program, "venv", "--quiet", "--python", str(python), str(home)],
        [program, "pip", "install", "--quiet", "--python", str(home / "bin" / "python"), "--exclude-newer", _AS_OF,
         package],
    ):  # fmt: skip
        done = subprocess.run(
            command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            return f"LocalStack cannot be installed: {done.stdout.strip()[-500:]}"
    return None


def _find_python_313() -> Path | None:
    on_path = shutil.which("python3.13")
    versions = sorted((Path.home() / ".pyenv" / "versions").glob("3.13.*/bin/python3.13"))
    return next((path for path in ([Path(on_path)] if on_path else []) + versions if _is_python_313(path)), None)


def _is_python_313(path: Path) -> bool:
    # Asked, not told by the name: what stands on the path may be a shim without a Python behind it.
    try:
        done = subprocess.run([path, "-c", "import sys; print(sys.version_info[:2] == (3, 13))"], capture_output=True,
                              text=True, check=False, timeout=30)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == "True"
