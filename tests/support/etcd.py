"""Real etcd servers on the loopback, each with a data folder of its own; none outlives the process that started it."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from catalog.kv.etcd import EtcdKV, EtcdOptions
from catalog.kv.etcd_stubs import load_etcdrpc
from storage.clock import SystemClock

__all__ = ["EtcdCluster", "EtcdServer", "etcd_cluster_or_skip", "etcd_server_or_skip", "free_ports"]

_START_S_MAX = 30.0

# Asks Linux to SIGKILL the program when the process that started it dies, however that happens. Not a ``preexec_fn``:
# that forks this process, which grpc's threads do not survive in the child.
_MORTAL = (
    sys.executable,
    "-ISc",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])",
)


@dataclass
class EtcdServer:
    """One server: start it, kill it, stop its clock, start it again on the same data."""

    name: str
    folder: Path
    client_port: int
    peer_port: int
    initial_cluster: str = ""
    flags: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.client_port}"

    def start(self) -> None:
        """Start the server and return without waiting for it to answer."""
        scheme = "https" if "--cert-file" in self.flags else "http"
        client, peer = f"{scheme}://{self.endpoint}", f"http://127.0.0.1:{self.peer_port}"
        command = [_binary(), "--name", self.name, "--data-dir", str(self.folder / self.name)]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", self.initial_cluster or f"{self.name}={peer}", *self.flags]
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen([*_MORTAL, *command], stdout=log, stderr=log, env={})

    def wait(self) -> None:
        """Return once the server says that it is healthy, which it is when the cluster has a leader."""
        deadline = time.monotonic() + _START_S_MAX
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"etcd ended; its log:\n{self.log()[-2000:]}")
            if self._is_healthy():
                return
            time.sleep(0.05)
        raise RuntimeError(f"etcd did not become healthy; its log:\n{self.log()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Let it accept connections and answer nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return (self.folder / f"{self.name}.log").read_text(errors="replace")

    def kv(self, **options: Any) -> EtcdKV:
        """A client of this server alone."""
        return EtcdKV([self.endpoint], SystemClock(), EtcdOptions(**options))

    def compact(self, revision: int) -> None:
        """Make etcd forget the history before ``revision``."""
        rpc = load_etcdrpc()
        with grpc.insecure_channel(self.endpoint, [("grpc.enable_http_proxy", 0)]) as channel:
            rpc.KVStub(channel).Compact(rpc.CompactionRequest(revision=revision, physical=True), timeout=10)

    def leads(self) -> bool:
        """Whether this member is its cluster's leader."""
        rpc = load_etcdrpc()
        with grpc.insecure_channel(self.endpoint, [("grpc.enable_http_proxy", 0)]) as channel:
            status = rpc.MaintenanceStub(channel).Status(rpc.StatusRequest(), timeout=10)
        return bool(status.leader == status.header.member_id)

    def stored_keys(self) -> list[bytes]:
        """Every key in the server, whoever put it there."""
        rpc = load_etcdrpc()
        with grpc.insecure_channel(self.endpoint, [("grpc.enable_http_proxy", 0)]) as channel:
            request = rpc.RangeRequest(key=b"\0", range_end=b"\0", keys_only=True)
            return [kv.key for kv in rpc.KVStub(channel).Range(request, timeout=10).kvs]

    def _is_healthy(self) -> bool:
        if "--client-cert-auth" in self.flags or "--cert-file" in self.flags:
            return "ready to serve client requests" in self.log()
        connection = http.client.HTTPConnection("127.0.0.1", self.client_port, timeout=2)
        try:
            connection.request("GET", "/health")
            return bool(json.loads(connection.getresponse().read()).get("health") == "true")
        except (OSError, ValueError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@dataclass
class EtcdCluster:
    """Several servers that elect a leader."""

    members: list[EtcdServer]

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    def leader(self) -> EtcdServer:
        """The member that leads at this moment."""
        deadline = time.monotonic() + _START_S_MAX
        while time.monotonic() < deadline:
            for member in self.members:
                if member.process is not None and member.leads():
                    return member
            time.sleep(0.05)
        raise RuntimeError("the cluster elects no leader")

    def kv(self, **options: Any) -> EtcdKV:
        """A client of all members, the leader first."""
        leader = self.leader().endpoint
        others = [endpoint for endpoint in self.endpoints if endpoint != leader]
        return EtcdKV([leader, *others], SystemClock(), EtcdOptions(**options))


@contextmanager
def etcd_server_or_skip(*flags: str, folder: Path | None = None) -> Iterator[EtcdServer]:
    """Run one server; skips the test where the program etcd is not installed."""
    with etcd_cluster_or_skip(1, *flags, folder=folder) as cluster:
        yield cluster.members[0]


@contextmanager
def etcd_cluster_or_skip(n_members: int = 3, *flags: str, folder: Path | None = None) -> Iterator[EtcdCluster]:
    """Run a cluster; skips the test where the program etcd is not installed."""
    _binary()
    with ExitStack() as stack:
        folder = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="firn-etcd-")))
        ports = free_ports(2 * n_members)
        pairs = list(zip(ports[::2], ports[1::2], strict=True))
        initial = ",".join(f"m{n}=http://127.0.0.1:{peer}" for n, (_client, peer) in enumerate(pairs))
        members = [EtcdServer(f"m{n}", folder, *pair, initial, flags) for n, pair in enumerate(pairs)]
        for member in members:
            stack.callback(member.kill)
            member.start()
        for member in members:
            member.wait()
        yield EtcdCluster(members)


def free_ports(n: int) -> list[int]:
    """Different ports of the loopback that nothing listens on at this moment."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(n)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _binary() -> str:
    found = shutil.which("etcd")
    if found is None:
        pytest.skip("the program etcd is not installed; apt-get install etcd-server")
    return found
