"""The engines that are measured side by side, each behind `Peer`: open tables, run SQL, give an Arrow table.

Every engine runs at its default settings; what is set here is only what reading the data takes. A peer lives in a
process of its own (`benchmarks.peer_process`), where alone its library is imported.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import pyarrow as pa

if TYPE_CHECKING:
    from service.settings import EngineSettings
    from service.statement import Functions

__all__ = ["PEERS", "Answer", "Peer", "S3Access", "duckdb_extension"]


@dataclass(frozen=True, slots=True)
class S3Access:
    """How to reach the S3 API that the tables lie on."""

    endpoint: str
    key: str = "benchmark"
    secret: str = "benchmark-secret"
    region: str = "us-east-1"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement gave. ``receipt`` is what the engine itself says of the cost, if it says anything."""

    table: pa.Table
    receipt: Mapping[str, Any] | None = None


class Peer(Protocol):
    """One engine."""

    def open(self, tables: Mapping[str, str], s3: S3Access | None) -> None:
        """Make the Parquet files ``tables`` (name → path or s3:// URL) queryable by name."""
        ...

    def run(self, sql: str) -> Answer:
        """Run one statement to its last row. Raises whatever the engine raises."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class FirnlinePeer:
    """This product, in process, on a lake of its own in a temporary folder, and on its workers' event loop.

    functions : where statements ask to run
    """

    functions: Functions = "auto"

    def __init__(self) -> None:
        import uvloop

        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._stack = contextlib.AsyncExitStack()
        self._folder = contextlib.ExitStack()

    def open(self, tables: Mapping[str, str], s3: S3Access | None) -> None:
        import tempfile

        from service.components import open_engine

        lake = self._folder.enter_context(tempfile.TemporaryDirectory())
        settings = self._settings(lake, tables, s3)
        self._engine = self._runner.run(self._stack.enter_async_context(open_engine(settings)))
        for name, location in tables.items():
            self.run(f"CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{location}'")

    def _settings(self, lake: str, tables: Mapping[str, str], s3: S3Access | None) -> EngineSettings:
        """Return the engine's settings for a lake in a folder."""
        from service.settings import EngineSettings
        from storage.blobs.s3_options import S3Options

        options = S3Options()
        if s3 is not None:
            options = S3Options(s3.endpoint, s3.region, access_key_id=s3.key, secret_access_key=s3.secret)
        return EngineSettings(lake=lake, s3=options)

    def run(self, sql: str) -> Answer:
        return self._runner.run(self._answer(sql))

    async def _answer(self, sql: str) -> Answer:
        from service.statement import Statement

        result = await self._engine.run(Statement(sql, "benchmark", functions=self.functions))
        batches = [batch async for batch in result.batches]
        return Answer(pa.Table.from_batches(batches, result.schema), result.receipt.to_dict())

    def close(self) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()
        self._folder.close()


class FirnlineNewTextPeer(FirnlinePeer):
    """This product, where no text comes twice: what it learns from a repeated statement is of no use."""

    def __init__(self) -> None:
        super().__init__()
        self._n_runs = 0

    def run(self, sql: str) -> Answer:
        self._n_runs += 1
        first, _, rest = sql.strip().partition(" ")
        return super().run(f"{first} /* {self._n_runs} */ {rest}")  # within: a comment at either end is cut off


class FirnlineHttpPeer:
    """This product over HTTP with Arrow results, on one connection to a server that it starts."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def open(self, tables: Mapping[str, str], s3: S3Access | None) -> None:
        from benchmarks.serving import serving

        folders = sorted({str(Path(location).parent) for location in tables.values()})
        self._server = self._stack.enter_context(serving(allow=folders))
        self._client = self._stack.enter_context(self._server.client())
        for name, location in tables.items():
            self.run(f"CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{location}'")

    def run(self, sql: str) -> Answer:
        return Answer(self._client.sql(sql))

    def close(self) -> None:
        self._stack.close()


class DataFusionPeer:
    """DataFusion's own session with its default settings."""

    def open(self, tables: Mapping[str, str], s3: S3Access | None) -> None:
        from datafusion import SessionContext

        self._context = SessionContext()
        for name, location in tables.items():
            if s3 is not None:
                self._register_bucket(urlsplit(location).netloc, s3)
            self._context.register_parquet(name, location)

    def _register_bucket(self, bucket: str, s3: S3Access) -> None:
        from datafusion.object_store import AmazonS3

        store = AmazonS3(
            bucket_name=bucket, region=s3.region, access_key_id=s3.key, secret_access_key=s3.secret,
            endpoint=s3.endpoint, allow_http=True,
        )  # fmt: skip
        self._context.register_object_store("s3://", store, host=bucket)

    def run(self, sql: str) -> Answer:
        frame = self._context.sql(sql)
        return Answer(pa.Table.from_batches(frame.collect(), frame.schema()))

    def close(self) -> None:
        del self._context


class DuckDBPeer:
    """DuckDB; for S3 with its httpfs extension from the Python package, since nothing is downloaded."""

    def open(self, tables: Mapping[str, str], s3: S3Access | None) -> None:
        import duckdb

        self._connection = duckdb.connect()
        if s3 is not None:
            parts = urlsplit(s3.endpoint)
            self._connection.execute(f"LOAD '{duckdb_extension('httpfs')}'")
            self._connection.execute(
                f"CREATE SECRET (TYPE s3, KEY_ID '{s3.key}', SECRET '{s3.secret}', REGION '{s3.region}', "
                f"ENDPOINT '{parts.netloc}', USE_SSL {str(parts.scheme == 'https').lower()}, URL_STYLE 'path')"
            )
        for name, location in tables.items():
            self._connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{location}')")

    def run(self, sql: str) -> Answer:
        return Answer(self._connection.execute(sql).to_arrow_table())

    def close(self) -> None:
        self._connection.close()


class ChDBPeer:
    """ClickHouse in process, told to give NULL where the SQL standard does."""

    def open(self, tables: Mapping[str, str], s3: S3Access | None) -> None:
        if s3 is not None:
            raise ValueError("chDB is measured on local files only")
        self._session = import_module("chdb.session").Session()
        self._session.query("SET join_use_nulls = 1, aggregate_functions_null_for_empty = 1")
        for name, location in tables.items():
            self._session.query(f"CREATE VIEW {name} AS SELECT * FROM file('{location}', 'Parquet')")

    def run(self, sql: str) -> Answer:
        result = self._session.query(sql.strip().rstrip(";"), "ArrowStream")
        with pa.ipc.open_stream(result.bytes()) as reader:
            return Answer(reader.read_all())

    def close(self) -> None:
        self._session.close()


class PolarsPeer:
    """Polars' SQL over lazy Parquet scans."""

    def open(self, tables: Mapping[str, str], s3: S3Access | None) -> None:
        import polars

        options = None
        if s3 is not None:
            options = {
                "aws_endpoint_url": s3.endpoint, "aws_region": s3.region, "aws_allow_http": "true",
                "aws_access_key_id": s3.key, "aws_secret_access_key": s3.secret,
            }  # fmt: skip
        frames = {name: polars.scan_parquet(url, storage_options=options) for name, url in tables.items()}
        self._context = polars.SQLContext(frames)

    def run(self, sql: str) -> Answer:
        return Answer(self._context.execute(sql.strip().rstrip(";"), eager=True).to_arrow())

    def close(self) -> None:
        del self._context


def duckdb_extension(name: str) -> Path:
    """Return the path of a DuckDB extension that its Python package holds. Raises `FileNotFoundError`."""
    found = find_spec(f"duckdb_extension_{name}")
    folders = [] if found is None else [Path(each) for each in found.submodule_search_locations or ()]
    files = [path for folder in folders for path in folder.rglob(f"{name}.duckdb_extension")]
    if not files:
        raise FileNotFoundError(f"install the package duckdb-extension-{name} of DuckDB's own version")
    return files[0]


def _of_lookups(name: str) -> Callable[[], Peer]:
    def made() -> Peer:
        peer: Peer = getattr(import_module("benchmarks.lookup_peers"), name)()
        return peer

    return made


def _of_functions(name: str) -> Callable[[], Peer]:
    def made() -> Peer:
        from benchmarks.functions_peers import FUNCTION_PEERS

        return FUNCTION_PEERS[name]()

    return made


PEERS: dict[str, Callable[[], Peer]] = {
    "firnline": FirnlinePeer,
    "firnline-new-text": FirnlineNewTextPeer,
    "firnline-http": FirnlineHttpPeer,
    "datafusion": DataFusionPeer,
    "duckdb": DuckDBPeer,
    "chdb": ChDBPeer,
    "polars": PolarsPeer,
    "lake": _of_lookups("LakePeer"),
    "lake-keys": _of_lookups("LakeKeysPeer"),
    "datafusion-tuned": _of_lookups("TunedDataFusionPeer"),
    "duckdb-delta": _of_lookups("DuckDBDeltaPeer"),
    "duckdb-iceberg": _of_lookups("DuckDBIcebergPeer"),
    "polars-delta": _of_lookups("PolarsDeltaPeer"),
    "polars-iceberg": _of_lookups("PolarsIcebergPeer"),
    "pyiceberg": _of_lookups("PyIcebergPeer"),
    **{
        name: _of_functions(name)
        for name in (
            "in process",
            "2 processes",
            "4 processes",
            "2 HTTP workers",
            "2 Lambda emulators",
            "2 Ray workers",
            "Sail",
            "Dask",
            "Ray Data",
        )
    },
}
