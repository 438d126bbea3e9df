"""AWS Lambda on this machine for tests: `localstack/lambda_front.py` as a process of its own, with its functions.

Needs AWS's emulator, which is downloaded once; tests that cannot have it are skipped with the reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config

__all__ = ["LocalLambda", "emulator_path", "local_lambda", "runtime_client"]

_ROOT = Path(__file__).parents[2]
_LOCALSTACK = _ROOT / "localstack"


def emulator_path() -> Path:
    """Return AWS's emulator; skip the test where it cannot be had."""
    done = subprocess.run(
        [sys.executable, str(_LOCALSTACK / "lambda_rie.py")], capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        pytest.skip(f"NOT TESTED: {done.stderr.strip()}")
    return Path(done.stdout.strip())


@dataclass(frozen=True)
class LocalLambda:
    """A front that runs.

    url : of the Lambda service
    urls : function → its Function URL
    """

    url: str
    urls: Mapping[str, str]
    log: Path

    def client(self, **options: Any) -> Any:
        """Return boto3's client, which does not retry."""
        config = Config(retries={"total_max_attempts": 1}, read_timeout=60, **options)
        return boto3.client(
            "lambda", region_name="us-east-1", endpoint_url=self.url, aws_access_key_id="test",
            aws_secret_access_key="test", config=config,
        )  # fmt: skip

    def invoke(self, function: str, event: Any) -> tuple[Any, str | None]:
        """Invoke a function; return its answer and how it failed, if it did."""
        found = self.client().invoke(FunctionName=function, Payload=json.dumps(event))
        return json.loads(found["Payload"].read() or b"null"), found.get("FunctionError")

    def environments(self, function: str) -> list[dict[str, Any]]:
        """Return what runs for a function."""
        found: list[dict[str, Any]] = httpx.get(self.url + "/_front", trust_env=False).json()[function]
        return found

    def lines(self) -> list[str]:
        """Return what the functions wrote."""
        return self.log.read_text().splitlines()


@contextmanager
def local_lambda(
    folder: Path, functions: Mapping[str, Mapping[str, Any]], *options: str, port: int = 0
) -> Iterator[LocalLambda]:
    """Run the front with functions, as its ``--config`` takes them, each with a URL."""
    emulator = emulator_path()
    config, log = folder / "functions.json", folder / "front.log"
    config.write_text(json.dumps({"functions": functions}))
    urls = [part for name in functions for part in ("--url", f"{name}=0")]
    command = [sys.executable, str(_LOCALSTACK / "lambda_front.py"), "--port", str(port), "--config", str(config)]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, "--emulator", str(emulator), *urls, *options], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert process.stdout is not None
        found: dict[str, str] = {}
        while not (line := process.stdout.readline()).startswith("listening on "):
            if not line:
                raise RuntimeError(f"the front did not start: {log.read_text()[-2000:]}")
            found[line.split()[2]] = line.split()[-1]
        yield LocalLambda(line.split()[-1], found, log)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def runtime_client(python: str) -> Path:
    """Return a folder with awslambdaric for a version of Python, as uv.lock pins it; skip where it cannot be had."""
    folder = _ROOT / "build" / "lambda-ric" / python
    if (folder / "awslambdaric").is_dir():
        return folder
    uv = _ROOT / ".tools" / "bin" / "uv"
    if not uv.exists():
        pytest.skip("NOT TESTED: uv, which make setup installs, is not here to install awslambdaric with")
    export = [str(uv), "export", "--frozen", "--quiet", "--only-group", "dev", "--no-emit-project", "--no-annotate"]
    pins = subprocess.run([*export, "--no-hashes"], capture_output=True, text=True, cwd=_ROOT, check=True).stdout
    wanted = [
        line
        for line in pins.splitlines()
        if line.startswith(("awslambdaric==", "simplejson==", "snapshot-restore-py=="))
    ]
    install = [str(uv), "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--python", sys.executable]
    done = subprocess.run(
        [*install, "--python-version", python, "--target", str(folder), *(line.split(" ;")[0] for line in wanted)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"NOT TESTED: awslambdaric could not be installed: {done.stderr.strip()[-300:]}")
    return folder
