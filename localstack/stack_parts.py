"""The parts of a stack: how each is started, and when it is ready.

They are started in this order and ended in the other one: the S3 API, etcd, the log service, the workers, the endpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stack_layout import Choices, Layout, task_secret
from stack_process import MARK

__all__ = ["BUCKET", "FILES_READY", "FUNCTION", "LAKE", "Part", "objects", "parts", "shell_variables"]

BUCKET = "firnline"
FILES_READY = "/_requests"
"""A path that only the S3 API over files answers."""
LAKE = f"s3://{BUCKET}/lake"
FUNCTION = "firnline-worker"
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT")
"""Handed on from the caller's shell. A part that runs is right under another shell's too."""
_FIRN = str(Path(sys.executable).with_name("firn"))


@dataclass(frozen=True, slots=True)
class Part:
    """One process.

    url : where it is reached
    ready : path that answers 200 once it works
    files : that it reads, with their text; written before it starts
    start_s : how long it may take to be ready
    """

    name: str
    what: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    url: str
    ready: str
    files: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 120.0

    @property
    def identity(self) -> str:
        """Return what differs when the part has to be started anew."""
        told = sorted((name, value) for name, value in self.environment.items() if name not in _KEPT)
        text = json.dumps([self.command, told, sorted(self.files.items())])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def shell_variables(layout: Layout, ports: Mapping[str, int], choices: Choices) -> dict[str, str]:
    """Return what ``firn``, boto3 and the AWS command line need to use the stack."""
    return {
        "FIRN_LAKE": LAKE,
        "FIRN_CATALOG": f"etcd://127.0.0.1:{ports['etcd']}",
        "FIRN_LOG_OWN": "0",
        "FIRN_FUNCTIONS": f"lambda:{FUNCTION}" if choices.functions == "lambda" else _url(ports["workers"]),
        "FIRN_FUNCTIONS_CONCURRENCY": str(choices.n_workers),
        "FIRN_TASK_SECRET": task_secret(layout),
        "AWS_ENDPOINT_URL_S3": _url(ports["s3"]),
        "AWS_ENDPOINT_URL": _url(ports["workers"] if choices.functions == "lambda" else ports["s3"]),
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "STACK_URL": _url(ports["endpoint"]),
    }


def parts(layout: Layout, ports: Mapping[str, int], choices: Choices, localstack: Path | None) -> list[Part]:
    """Return the parts in the order in which they are started.

    localstack : its Python, or None for moto, or files
    """
    mine = _own_environment(layout)
    ours = mine | {
        name: value for name, value in shell_variables(layout, ports, choices).items() if name != "STACK_URL"
    }
    return [
        _s3(layout, ports["s3"], mine, choices, localstack),
        _etcd(layout.etcd(choices), ports, mine),
        Part(
            "wal", "the log service", (_FIRN, "wal", "--port", str(ports["wal"])), ours, _url(ports["wal"]), "/readyz"
        ),
        _workers(layout, ports["workers"], ours, choices),
        Part(
            "endpoint", "the endpoint", (_FIRN, "serve", "--port", str(ports["endpoint"])), ours,
            _url(ports["endpoint"]), "/readyz",
        ),
    ]  # fmt: skip


def _own_environment(layout: Layout) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}  # noqa: TID251 - for what is started
    local = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost", "TMPDIR": str(layout.folder / "tmp")}
    return kept | local | {MARK: str(layout.folder), "PYTHONUNBUFFERED": "1"}


def _s3(layout: Layout, port: int, mine: Mapping[str, str], choices: Choices, localstack: Path | None) -> Part:
    if choices.s3 == "files":
        command = (sys.executable, "-m", "benchmarks.s3_facade", "--port", str(port), "--root", str(objects(layout)))
        environment = {**mine, "PYTHONPATH": str(layout.root)}
        return Part("s3", "the S3 API, over files", command, environment, _url(port), FILES_READY)
    if localstack is None:
        command = (sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
        return Part("s3", "the S3 API, by moto", command, mine, _url(port), "/moto-api/")
    environment = dict(mine) | {
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "SERVICES": "s3",
        "STRICT_SERVICE_LOADING": "1",
        "DNS_ADDRESS": "0",
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "OVERRIDE_IN_DOCKER": "0",
        "FILESYSTEM_ROOT": str(layout.folder / "localstack"),
    }
    command = (str(localstack), "-P", "-m", "localstack.runtime.main")
    return Part("s3", "the S3 API, by LocalStack", command, environment, _url(port), "/_localstack/health")


def objects(layout: Layout) -> Path:
    """Return the folder whose folders are the buckets of an S3 API over files."""
    return layout.files / "objects"


def _etcd(folder: Path, ports: Mapping[str, int], mine: Mapping[str, str]) -> Part:
    client, peer = _url(ports["etcd"]), _url(ports["etcd-peer"])
    command = (
        "etcd", "--name", "stack", "--data-dir", str(folder),
        "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
        "--initial-advertise-peer-urls", peer, "--initial-cluster", f"stack={peer}",
        "--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1h",
    )  # fmt: skip
    return Part("etcd", "the catalog's etcd", command, mine, client, "/health")


def _workers(layout: Layout, port: int, ours: Mapping[str, str], choices: Choices) -> Part:
    n = choices.n_workers
    without = {
        name: value
        for name, value in ours.items()
        if name not in ("FIRN_FUNCTIONS", "FIRN_FUNCTIONS_CONCURRENCY", "FIRN_CATALOG", "AWS_ENDPOINT_URL")
    }
    if choices.functions == "http":
        command = (_FIRN, "worker", "--port", str(port), "--concurrency", str(n))
        return Part("workers", f"a worker for {n} tasks at once", command, without, _url(port), "/readyz")
    config = str(layout.folder / "functions.json")
    told = {name: value for name, value in without.items() if name.startswith(("FIRN_", "AWS_")) or name == MARK}
    function = {"handler": "functions.aws.worker", "concurrency": n, "environment": told}
    command = (
        sys.executable,
        str(Path(__file__).with_name("lambda_front.py")),
        "--port",
        str(port),
        "--config",
        config,
    )
    what = f"Lambda with the function {FUNCTION}, up to {n} at once under AWS's emulator"
    text = json.dumps({"functions": {FUNCTION: function}}, indent=2)
    return Part("workers", what, command, without, _url(port), "/2016-08-19/account-settings", {config: text})


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"
