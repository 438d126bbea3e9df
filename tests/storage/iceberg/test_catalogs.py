"""Finding a table's metadata file in a SQL catalog and in a REST catalog."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import uvicorn
from fastapi import FastAPI, Header
from fastapi.responses import JSONResponse
from pyiceberg.catalog.sql import SqlCatalog

from storage.errors import (
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from storage.tables.iceberg import load
from storage.tables.iceberg.catalogs import resolve_metadata_location
from storage.tables.snapshot import At
from tests.support.iceberg_build import IcebergBuilder, Manifest, column, document_of
from tests.support.iceberg_read import local_stores

pytestmark = pytest.mark.anyio


class TestSql:
    async def test_the_metadata_file_follows_the_catalog(self, tmp_path: Path) -> None:
        uri = f"sqlite:///{tmp_path}/c.db"
        catalog = SqlCatalog("default", uri=uri, warehouse=f"file://{tmp_path}/w")
        catalog.create_namespace(("a", "b"))
        rows = pa.table({"id": [1]})
        table = catalog.create_table("a.b.t", rows.schema)
        for number in (1, 2):
            table.append(rows)
            location = await resolve_metadata_location({"uri": uri}, "a.b.t")
            assert location == table.metadata_location
            snapshot = await load(local_stores(), location, At(), None)
            assert snapshot.files.n_rows.sum() == number
        with pytest.raises(NotFoundError, match=r"a\.b\.u"):
            await resolve_metadata_location({"uri": uri, "type": "sql"}, "a.b.u")
        with pytest.raises(NotFoundError, match="catalog=other"):
            await resolve_metadata_location({"uri": uri, "name": "other"}, "a.b.t")
        catalog.engine.dispose()

    async def test_a_database_without_a_catalog_is_unavailable(self, tmp_path: Path) -> None:
        with pytest.raises(UnavailableError, match="iceberg_tables"):
            await resolve_metadata_location({"uri": f"sqlite:///{tmp_path}/none.db"}, "a.t")

    @pytest.mark.parametrize(
        ("properties", "table", "error"),
        [
            ({}, "a.t", InvalidError),
            ({"uri": "sqlite://"}, "t", InvalidError),
            ({"uri": "nonsense"}, "a.t", InvalidError),
            ({"uri": "sqlite://", "type": "hive"}, "a.t", UnsupportedError),
        ],
    )
    async def test_wrong_properties_are_refused(
        self, properties: dict[str, str], table: str, error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            await resolve_metadata_location(properties, table)


def rest_app(metadata_location: str) -> FastAPI:
    """The two calls of the REST catalog that a reader makes; the token decides how it answers."""
    app = FastAPI()

    def problem(status: int, kind: str) -> JSONResponse:
        return JSONResponse({"error": {"message": kind, "type": kind, "code": status}}, status)

    @app.get("/v1/config")
    def config() -> dict[str, Any]:
        return {"defaults": {}, "overrides": {"prefix": "lake"}}

    @app.get("/v1/lake/namespaces/{namespace}/tables/{table}")
    def table(namespace: str, table: str, authorization: str = Header("")) -> Any:
        if authorization == "Bearer wrong":
            return problem(401, "NotAuthorizedException")
        if authorization == "Bearer weak":
            return problem(403, "ForbiddenException")
        if (namespace, table) == ("a\x1fb", "broken"):
            return {"metadata": {"format-version": 9}, "metadata-location": metadata_location, "config": {}}
        if (namespace, table) != ("a\x1fb", "t"):
            return problem(404, "NoSuchTableException")
        return {"metadata": document_of(metadata_location), "metadata-location": metadata_location, "config": {}}

    return app


@pytest.fixture
def location(tmp_path: Path) -> str:
    build = IcebergBuilder(tmp_path / "t", [column(1, "id", "long")])
    return build.commit(Manifest([build.parquet("a", pa.table({"id": pa.array([1], pa.int64())}), [1])]))


@pytest.fixture
def rest(location: str) -> Iterator[str]:
    """A REST catalog on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(rest_app(location), port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


class TestRest:
    async def test_the_metadata_file_is_the_one_that_the_server_names(self, rest: str, location: str) -> None:
        assert await resolve_metadata_location({"uri": rest}, "a.b.t") == location
        assert (await load(local_stores(), location, At(), None)).version == 1

    async def test_its_errors_are_told_apart(self, rest: str) -> None:
        with pytest.raises(NotFoundError, match=r"a\.b\.u"):
            await resolve_metadata_location({"uri": rest}, "a.b.u")
        with pytest.raises(UnauthenticatedError):
            await resolve_metadata_location({"uri": rest, "token": "wrong"}, "a.b.t")
        with pytest.raises(ForbiddenError):
            await resolve_metadata_location({"uri": rest, "token": "weak"}, "a.b.t")
        with pytest.raises(UnsupportedError, match="metadata file"):
            await resolve_metadata_location({"uri": rest}, "a.b.broken")

    async def test_a_server_that_is_not_there_is_unavailable(self) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
            with pytest.raises(UnavailableError):
                await resolve_metadata_location({"uri": uri}, "a.t")
