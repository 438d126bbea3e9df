"""Where the product's tasks run, and the engines beside it, each as a `benchmarks.peers.Peer`.

Dask and Ray Data have no SQL: for them a query is a program as their manuals write it, for those queries where that is
a page at most.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from benchmarks.machine import REPOSITORY
from benchmarks.peers import Answer, FirnlinePeer, Peer, S3Access
from benchmarks.tpch_data import tpch_queries
from storage.blobs.s3_options import S3Options

if TYPE_CHECKING:
    from service.settings import EngineSettings

__all__ = ["FUNCTION_PEERS", "MEMORY_MB", "N_WORKERS", "SECRET", "WORKERS_LOG", "start_workers"]

SECRET = "of a benchmark on this machine only"
N_WORKERS = 2
MEMORY_MB = 1769
WORKERS_LOG = "BENCHMARK_WORKERS_LOG"
"""Variable that names the file for what workers say; else nobody reads it."""


class TasksPeer(FirnlinePeer):
    """This product, in process, whose statements run as tasks at a place.

    Parameters
    ----------
    place : as ``FIRN_FUNCTIONS``; ``http`` and ``lambda`` are started here; None: no tasks
    """

    def __init__(self, place: str | None, concurrency: int = 0) -> None:
        super().__init__()
        self._place, self._concurrency = place, concurrency
        self.functions = "inline" if place is None else "fan-out"

    def _settings(self, lake: str, tables: Mapping[str, str], s3: S3Access | None) -> EngineSettings:
        from service.settings import FunctionAccess

        if s3 is not None:
            lake = f"s3://lake/{Path(lake).name}"
        settings = super()._settings(lake, tables, s3)
        if self._place is None:
            return settings
        settings = replace(settings, s3=replace(settings.s3, region="us-east-1"))  # Lambda's, too
        folders = sorted({str(Path(each).parent) for each in tables.values()}) if s3 is None else ["s3://tpch"]
        place, endpoint = start_workers(self._folder, self._place, lake, ",".join(folders), settings.s3)
        access = FunctionAccess(place, SECRET, concurrency=self._concurrency, lambda_endpoint=endpoint)
        return replace(settings, functions=access)


def start_workers(
    stack: contextlib.ExitStack, place: str, lake: str, allow: str, s3: S3Options | None = None
) -> tuple[str, str | None]:
    """Start workers that are no part of this process, for ``http`` and ``lambda``.

    Returns the place as ``FIRN_FUNCTIONS`` has it, and Lambda's endpoint.
    """
    if place not in ("http", "lambda"):
        return place, None
    environment = {"FIRN_LAKE": lake, "FIRN_ALLOW": allow, "FIRN_TASK_SECRET": SECRET}
    if s3 is not None and s3.endpoint is not None:
        keys = {"AWS_ACCESS_KEY_ID": s3.access_key_id or "", "AWS_SECRET_ACCESS_KEY": s3.secret_access_key or ""}
        environment |= {"AWS_ENDPOINT_URL_S3": s3.endpoint, "AWS_REGION": "us-east-1", **keys}
    if place == "http":
        program = "from firnline.cli import main; main()"
        worker = ["-c", program, "worker", "--port", "0", "--concurrency", str(N_WORKERS)]
        return _listening(stack, worker, environment), None
    os.environ.update(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_REGION="us-east-1")
    function = f"firnline-worker=functions.aws.worker,memory_mb={MEMORY_MB},concurrency={N_WORKERS}"
    front = str(REPOSITORY / "localstack" / "lambda_front.py")
    return "lambda:firnline-worker", _listening(stack, [front, "--port", "0", "--function", function], environment)


def _listening(stack: contextlib.ExitStack, command: list[str], environment: Mapping[str, str]) -> str:
    """Start a Python program and return the URL that it says it listens on."""
    said = stack.enter_context(Path(os.environ.get(WORKERS_LOG, os.devnull)).open("a"))  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=said, text=True, cwd=REPOSITORY,
        env={**os.environ, **environment},
    )  # fmt: skip

    def end() -> None:
        process.terminate()
        process.wait(30)

    stack.callback(end)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("listening on "):
            return line.split()[2]
    raise RuntimeError(f"{command[:2]} did not start, code {process.wait()}")


class SailPeer:
    """Sail: Spark Connect in Rust, on the engine that this product uses too; one process."""

    def open(self, tables: Mapping[str, str], s3: S3Access | None) -> None:
        import warnings

        from pysail.spark import SparkConnectServer

        warnings.simplefilter("ignore")
        self._server = SparkConnectServer()
        self._server.start(background=True)
        from pyspark.sql.connect.session import SparkSession

        self._session = SparkSession.builder.remote(f"sc://127.0.0.1:{self._server.listening_address[1]}").getOrCreate()
        for name, location in tables.items():
            self._session.read.parquet(location).createOrReplaceTempView(name)

    def run(self, sql: str) -> Answer:
        return Answer(self._session.sql(sql.strip().rstrip(";")).toArrow())

    def close(self) -> None:
        self._session.stop()
        self._server.stop()


class _ProgramPeer:
    """An engine whose queries are programs; ``programs`` has them by their number in TPC-H."""

    programs: Mapping[int, Callable[[Any, Mapping[str, str]], pa.Table]]

    def open(self, tables: Mapping[str, str], s3: S3Access | None) -> None:
        self._tables = tables
        self._numbers = {sql: number for number, sql in tpch_queries().items()}

    def run(self, sql: str) -> Answer:
        return Answer(self.programs[self._numbers[sql]](self, self._tables))

    def close(self) -> None:
        pass


class DaskPeer(_ProgramPeer):
    """Dask's data frames, on two worker processes of one thread."""

    def __init__(self) -> None:
        from benchmarks.functions_dask import PROGRAMS

        self.programs = PROGRAMS

    def open(self, tables: Mapping[str, str], s3: S3Access | None) -> None:
        super().open(tables, s3)
        from distributed import Client, LocalCluster

        self._cluster = LocalCluster(n_workers=N_WORKERS, threads_per_worker=1, dashboard_address=None)
        self._client = Client(self._cluster)

    def close(self) -> None:
        self._client.close()
        self._cluster.close()


class RayDataPeer(_ProgramPeer):
    """Ray Data, on a Ray of two CPUs."""

    def __init__(self) -> None:
        from benchmarks.functions_ray_data import PROGRAMS

        self.programs = PROGRAMS

    def open(self, tables: Mapping[str, str], s3: S3Access | None) -> None:
        super().open(tables, s3)
        from functions.invoke.ray_ import load_ray

        self._ray = load_ray()
        self._ray.init(num_cpus=N_WORKERS, include_dashboard=False, log_to_driver=False, logging_level="error")
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)

    def close(self) -> None:
        self._ray.shutdown()


def _tasks(place: str | None, concurrency: int = 0) -> Callable[[], Peer]:
    return lambda: TasksPeer(place, concurrency)


FUNCTION_PEERS: dict[str, Callable[[], Peer]] = {
    "in process": _tasks(None),
    "2 processes": _tasks("processes:2"),
    "4 processes": _tasks("processes:4"),
    "2 HTTP workers": _tasks("http", N_WORKERS),
    "2 Lambda emulators": _tasks("lambda", N_WORKERS),
    "2 Ray workers": _tasks("ray", N_WORKERS),
    "Sail": SailPeer,
    "Dask": DaskPeer,
    "Ray Data": RayDataPeer,
}
