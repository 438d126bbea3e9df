"""A real S3 API for tests: moto's server in a process of its own.

Buckets live as long as the server. It takes any credentials; `moto_options` gives some.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, urlsplit

import pytest

from storage.blobs.s3_options import S3Options

__all__ = ["create_bucket", "free_port", "moto_endpoint", "moto_options", "start_moto"]

_START_S_MAX = 30.0


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """The URL of a moto server that serves the whole session; import this fixture into the module that uses it."""
    with start_moto() as endpoint:
        yield endpoint


@contextmanager
def start_moto() -> Iterator[str]:
    """Run moto's server on a free port of the loopback and yield its URL; it is stopped at the end."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def create_bucket(endpoint: str, bucket: str) -> None:
    """Create an empty bucket; one that exists already is left alone."""
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=10)
    try:
        connection.request("PUT", "/" + quote(bucket))
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status not in (200, 409):
        raise RuntimeError(f"no bucket: {response.status} {body!r}")


def moto_options(endpoint: str, **changes: object) -> S3Options:
    """Options that reach the server at ``endpoint`` with made-up credentials."""
    options: dict[str, object] = {"access_key_id": "test", "secret_access_key": "test", "region": "us-east-1"}
    return S3Options(endpoint=endpoint, **{**options, **changes})  # type: ignore[arg-type]


def free_port() -> int:
    """A port of the loopback that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"moto's server ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("moto's server did not start")
