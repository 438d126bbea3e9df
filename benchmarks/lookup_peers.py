"""Engines that look up keys in the tables of `benchmarks.lookup_data`, each as its users would open these tables.

``open`` takes one table: its name and where it lies. DataFusion gets the folder's Parquet files, once as it comes and
once with all that it has for such queries; DuckDB, Polars and pyiceberg get the Delta or Iceberg table itself, and so
its statistics.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from urllib.parse import urlsplit

import pyarrow as pa

from benchmarks.peers import Answer, DataFusionPeer, FirnlinePeer, S3Access, duckdb_extension

__all__ = [
    "DuckDBDeltaPeer", "DuckDBIcebergPeer", "LakeKeysPeer", "LakePeer", "PolarsDeltaPeer", "PolarsIcebergPeer",
    "PyIcebergPeer", "TunedDataFusionPeer",
]  # fmt: skip


class LakePeer(FirnlinePeer):
    """This product, in process, on a lake that is there: the tables' names are the lake's location and its catalog."""

    def open(self, tables: Mapping[str, str], s3: S3Access | None) -> None:
        from service.components import open_engine
        from service.settings import EngineSettings
        from storage.blobs.s3_options import S3Options

        options = S3Options()
        if s3 is not None:
            options = S3Options(s3.endpoint, s3.region, access_key_id=s3.key, secret_access_key=s3.secret)
        settings = EngineSettings(lake=tables["lake"], catalog=tables.get("catalog"), s3=options)
        self._engine = self._runner.run(self._stack.enter_async_context(open_engine(settings)))


class LakeKeysPeer(LakePeer):
    """The same by key: ``run`` takes JSON with ``table``, ``by`` and ``keys``."""

    async def _answer(self, sql: str) -> Answer:
        import json

        from service.statement import KeyLookup, Statement

        asked = json.loads(sql)
        lookup = KeyLookup(("default", asked["table"]), asked["keys"], tuple(asked["by"]))
        result = await self._engine.run(Statement("", "benchmark", lookup=lookup))
        batches = [batch async for batch in result.batches]
        return Answer(pa.Table.from_batches(batches, result.schema), result.receipt.to_dict())


class TunedDataFusionPeer(DataFusionPeer):
    """DataFusion with filters evaluated while it decodes, page index, Bloom filters, statistics and cached footers."""

    def open(self, tables: Mapping[str, str], s3: S3Access | None) -> None:
        from datafusion import SessionConfig, SessionContext

        config = SessionConfig()
        for name, value in {
            "datafusion.execution.parquet.pushdown_filters": "true",
            "datafusion.execution.parquet.reorder_filters": "true",
            "datafusion.execution.parquet.enable_page_index": "true",
            "datafusion.execution.parquet.bloom_filter_on_read": "true",
            "datafusion.execution.collect_statistics": "true",
            "datafusion.runtime.metadata_cache_limit": "1G",
        }.items():
            with contextlib.suppress(Exception):
                config = config.set(name, value)
        self._context = SessionContext(config)
        for name, location in tables.items():
            if s3 is not None:
                self._register_bucket(urlsplit(location).netloc, s3)
            self._context.register_parquet(name, location)


class _DuckDBPeer:
    extensions: tuple[str, ...] = ()
    function = ""

    def open(self, tables: Mapping[str, str], s3: S3Access | None) -> None:
        import duckdb

        self._connection = duckdb.connect()
        for name in ("httpfs", *self.extensions):
            self._connection.execute(f"LOAD '{duckdb_extension(name)}'")
        if s3 is not None:
            parts = urlsplit(s3.endpoint)
            self._connection.execute(
                f"CREATE SECRET (TYPE s3, KEY_ID '{s3.key}', SECRET '{s3.secret}', REGION '{s3.region}', "
                f"ENDPOINT '{parts.netloc}', USE_SSL {str(parts.scheme == 'https').lower()}, URL_STYLE 'path')"
            )
        for name, location in tables.items():
            self._connection.execute(f"CREATE VIEW {name} AS SELECT * FROM {self.function}('{location}')")

    def run(self, sql: str) -> Answer:
        return Answer(self._connection.execute(sql).to_arrow_table())

    def close(self) -> None:
        self._connection.close()


class DuckDBDeltaPeer(_DuckDBPeer):
    """DuckDB's delta extension."""

    extensions, function = ("delta",), "delta_scan"


class DuckDBIcebergPeer(_DuckDBPeer):
    """DuckDB's iceberg extension, given the metadata file."""

    extensions, function = ("avro", "iceberg"), "iceberg_scan"


def _arrow_rs_options(s3: S3Access | None) -> dict[str, str] | None:
    if s3 is None:
        return None
    return {
        "aws_endpoint_url": s3.endpoint, "aws_region": s3.region, "aws_allow_http": "true", "allow_http": "true",
        "aws_access_key_id": s3.key, "aws_secret_access_key": s3.secret,
    }  # fmt: skip


class PolarsDeltaPeer:
    """Polars' lazy scan of a Delta table, made once."""

    def open(self, tables: Mapping[str, str], s3: S3Access | None) -> None:
        import polars

        options = _arrow_rs_options(s3)
        frames = {name: polars.scan_delta(url, storage_options=options) for name, url in tables.items()}
        self._context = polars.SQLContext(frames)

    def run(self, sql: str) -> Answer:
        return Answer(self._context.execute(sql, eager=True).to_arrow())

    def close(self) -> None:
        del self._context


def _pyiceberg_options(s3: S3Access | None) -> dict[str, str]:
    if s3 is None:
        return {}
    return {
        "s3.endpoint": s3.endpoint, "s3.region": s3.region, "s3.access-key-id": s3.key,
        "s3.secret-access-key": s3.secret, "s3.force-virtual-addressing": "false",
    }  # fmt: skip


class PolarsIcebergPeer(PolarsDeltaPeer):
    """Polars' lazy scan of an Iceberg table, made once."""

    def open(self, tables: Mapping[str, str], s3: S3Access | None) -> None:
        import polars

        frames = {
            name: polars.scan_iceberg(url, storage_options=_pyiceberg_options(s3)) for name, url in tables.items()
        }
        self._context = polars.SQLContext(frames)


class PyIcebergPeer:
    """pyiceberg's scan of the table, opened once by its metadata file; a filter is the text behind WHERE."""

    def open(self, tables: Mapping[str, str], s3: S3Access | None) -> None:
        from pyiceberg.table import StaticTable

        (location,) = tables.values()
        self._table = StaticTable.from_metadata(location, _pyiceberg_options(s3))

    def run(self, sql: str) -> Answer:
        return Answer(self._table.scan(row_filter=sql.partition(" WHERE ")[2]).to_arrow())

    def close(self) -> None:
        del self._table
