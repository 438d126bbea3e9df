"""AWS's Runtime Interface Emulator: the program that a Lambda image runs under on a machine of one's own.

AWS publishes it within the wheel of its SAM command line on PyPI. `emulator` takes the binary out of a wheel that is
pinned by its hash, without installing anything, and keeps it in ``build/``.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

__all__ = ["EmulatorMissingError", "emulator"]

WHEEL = "aws-sam-cli==1.170.0"
WHEEL_SHA256 = "24ebaf5ecba38dc1758089968cb89ab61e124b84e92a344fc7a2771a47f4d0bf"
_ROOT = Path(__file__).resolve().parents[1]
_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
_DOWNLOAD_S = 300


class EmulatorMissingError(Exception):
    """The emulator is not here and could not be had; says why."""


def emulator(folder: Path | None = None) -> Path:
    """Return the emulator's path; download it if it is not in ``folder`` (``build/lambda-rie``) yet.

    Raises `EmulatorMissingError`.
    """
    folder = folder or _ROOT / "build" / "lambda-rie"
    machine = _MACHINES.get(platform.machine().lower())
    if machine is None or sys.platform != "linux":
        raise EmulatorMissingError(f"the emulator runs on Linux on x86_64 and arm64, not on {platform.machine()}")
    name = f"aws-lambda-rie-{machine}"
    found = folder / f"{WHEEL.replace('==', '-')}-{name}"
    if not found.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _take(name, Path(scratch)).replace(found)
    return found


def _take(name: str, scratch: Path) -> Path:
    """Return the binary, out of the downloaded wheel."""
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--quiet", "--disable-pip-version-check"]
    command = [_pip(), "-m", "pip", "download", *options, "--dest", str(scratch), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_S, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        said = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise EmulatorMissingError(f"{WHEEL}, which has the emulator, could not be downloaded: {said[0]}")
    with wheels[0].open("rb") as wheel:
        if hashlib.file_digest(wheel, "sha256").hexdigest() != WHEEL_SHA256:
            raise EmulatorMissingError(f"the wheel of {WHEEL} is not the one that is pinned")
    binary = scratch / name
    with zipfile.ZipFile(wheels[0]) as archive:
        binary.write_bytes(archive.read(f"samcli/local/rapid/{name}"))
    binary.chmod(0o755)
    return binary


def _pip() -> str:
    """Return a Python that has pip; one that uv made has none."""
    candidates = [str(_ROOT / ".tools" / "bin" / "python"), sys.executable, f"{sys.base_prefix}/bin/python3", "python3"]
    for each in candidates:
        try:
            done = subprocess.run([each, "-m", "pip", "--version"], capture_output=True, check=False)
        except OSError:
            continue
        if not done.returncode:
            return each
    raise EmulatorMissingError("no Python here has pip, to download the emulator with")


if __name__ == "__main__":
    try:
        print(emulator())
    except EmulatorMissingError as error:
        sys.exit(str(error))
