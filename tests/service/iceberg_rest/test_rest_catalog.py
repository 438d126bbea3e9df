"""pyiceberg's own REST client against a real server: it makes tables, commits to them, and reads what SQL wrote."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import (
    BadRequestError,
    CommitFailedException,
    ForbiddenError,
    NamespaceAlreadyExistsError,
    NamespaceNotEmptyError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import IntegerType, LongType, NestedField, StringType, TimestamptzType

from firnline import connect
from service.server import ServeSettings
from service.settings import EngineSettings
from tests.support.serving import serving

SCHEMA = Schema(
    NestedField(7, "id", LongType(), required=True),
    NestedField(8, "name", StringType(), required=False),
    NestedField(9, "n", IntegerType(), required=False),
)
ARROW = pa.schema([pa.field("id", pa.int64(), False), pa.field("name", pa.string()), pa.field("n", pa.int32())])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    lake = tmp_path_factory.mktemp("lake")
    with serving(ServeSettings(EngineSettings(lake=str(lake), allow=()), port=0)) as found:
        yield found


@pytest.fixture(scope="module")
def catalog(url: str) -> RestCatalog:
    return open_catalog(url)


def open_catalog(url: str) -> RestCatalog:
    return RestCatalog("firn", uri=f"{url}/iceberg", token="none")


@pytest.fixture
def name() -> str:
    return f"default.t{uuid.uuid4().hex[:8]}"


def rows(*ids: int) -> pa.Table:
    return pa.table([list(ids), [f"name {i}" for i in ids], [i % 3 for i in ids]], schema=ARROW)


def ids_of(table: Any) -> list[int]:
    return sorted(table.scan().to_arrow()["id"].to_pylist())


def sql(url: str, text: str) -> list[dict[str, Any]]:
    with connect(url) as connection:
        found: list[dict[str, Any]] = pa.table(connection.sql(text)).to_pylist()
        return found


def ask(url: str, path: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, Any, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/iceberg/v1{path}", data, method=method)
    for key, value in {"Content-Type": "application/json", **headers}.items():
        request.add_header(key.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None, answer.headers
    except urllib.error.HTTPError as error:
        with error:
            text = error.read()
            return error.code, json.loads(text) if text else None, error.headers


def test_namespaces_are_made_listed_described_and_dropped(catalog: RestCatalog, url: str) -> None:
    catalog.create_namespace("one", {"owner": "me"})
    with pytest.raises(NamespaceAlreadyExistsError):
        catalog.create_namespace("one")
    assert ("one",) in catalog.list_namespaces()
    assert ("default",) in catalog.list_namespaces()
    assert catalog.list_namespaces("one") == []
    assert catalog.load_namespace_properties("one") == {"owner": "me"}
    told = catalog.update_namespace_properties("one", removals={"owner", "gone"}, updates={"a": "b"})
    assert (told.removed, told.updated, told.missing) == (["owner"], ["a"], ["gone"])
    assert catalog.load_namespace_properties("one") == {"a": "b"}
    catalog.update_namespace_properties("default", updates={"x": "y"})
    assert catalog.load_namespace_properties("default") == {"x": "y"}
    catalog.create_table("one.t", SCHEMA)
    with pytest.raises(NamespaceNotEmptyError):
        catalog.drop_namespace("one")
    catalog.drop_table("one.t")
    catalog.drop_namespace("one")
    assert not catalog.namespace_exists("one")
    for missing in ("one", ("two", "levels")):
        with pytest.raises(NoSuchNamespaceError):
            catalog.load_namespace_properties(missing)
    with pytest.raises(BadRequestError, match="one level"):
        catalog.create_namespace(("two", "levels"))


def test_a_table_made_by_pyiceberg_is_a_table_of_ours(catalog: RestCatalog, url: str, name: str) -> None:
    table = catalog.create_table(name, SCHEMA, properties={"a": "b"})
    table.append(rows(1, 2, 3))
    assert [each["id"] for each in sql(url, f"SELECT id FROM {name} ORDER BY id")] == [1, 2, 3]
    table.append(rows(4))
    table.overwrite(rows(9), overwrite_filter="id < 3")
    assert ids_of(table) == [3, 4, 9]
    table.delete("id = 4")
    assert [each["id"] for each in sql(url, f"SELECT id FROM {name} ORDER BY id")] == [3, 9]
    assert table.location().startswith("file://")
    assert catalog.table_exists(name)
    assert tuple(name.split(".")) in catalog.list_tables("default")


def test_columns_that_pyiceberg_changes_change_in_sql(catalog: RestCatalog, url: str, name: str) -> None:
    table = catalog.create_table(name, SCHEMA)
    table.append(rows(1))
    with table.update_schema() as update:
        update.add_column("more", StringType())
        update.rename_column("name", "label")
        update.update_column("n", LongType())
    with table.update_schema() as update:
        update.delete_column("n")
    table.append(
        pa.table(
            {"id": pa.array([2], pa.int64()), "label": ["b"], "more": ["m"]},
            pa.schema([pa.field("id", pa.int64(), False), ("label", pa.string()), ("more", pa.string())]),
        )
    )
    assert sql(url, f"SELECT * FROM {name} ORDER BY id") == [
        {"id": 1, "label": "name 1", "more": None},
        {"id": 2, "label": "b", "more": "m"},
    ]
    sql(url, f"INSERT INTO {name} (id, more) VALUES (3, 'late')")
    sql(url, f"ALTER TABLE {name} ADD COLUMN last DATE")
    sql(url, f"OPTIMIZE {name}")
    table = catalog.load_table(name)
    assert table.schema().column_names == ["id", "label", "more", "last"]
    assert sorted(table.scan().to_arrow()["more"].to_pylist(), key=str) == [None, "late", "m"]


def test_what_sql_writes_pyiceberg_reads_by_name(catalog: RestCatalog, url: str, name: str) -> None:
    sql(url, f"CREATE TABLE {name} (id BIGINT PRIMARY KEY, name VARCHAR, n INT) USING iceberg ORDER BY (id)")
    sql(url, f"INSERT INTO {name} VALUES (1, 'a', 1), (2, 'b', 2)")
    sql(url, f"OPTIMIZE {name}")
    table = catalog.load_table(name)
    assert ids_of(table) == [1, 2]
    assert table.schema().identifier_field_names() == {"id"}
    table.append(rows(5))
    sql(url, f"INSERT INTO {name} VALUES (6, 'x', 0)")
    assert [each["id"] for each in sql(url, f"SELECT id FROM {name} ORDER BY id")] == [1, 2, 5, 6]
    sql(url, f"OPTIMIZE {name}")
    assert ids_of(catalog.load_table(name)) == [1, 2, 5, 6]
    marks = [key for key in table.refresh().properties if key.startswith("firnline.log.")]
    assert len(marks) == 1
    # The watermark is not the client's to change.
    with pytest.raises(ForbiddenError, match="kept by the catalog"), table.transaction() as change:
        change.set_properties({marks[0]: "99999"})
    with pytest.raises(ForbiddenError, match="kept by the catalog"), table.transaction() as change:
        change.remove_properties(marks[0])


def test_of_many_clients_appending_at_once_none_loses_rows(catalog: RestCatalog, url: str, name: str) -> None:
    catalog.create_table(name, SCHEMA)

    def append(number: int) -> None:
        client = open_catalog(url)
        for step in range(4):
            for _ in range(40):
                try:
                    client.load_table(name).append(rows(number * 10 + step))
                    break
                except CommitFailedException:
                    continue
            else:
                pytest.fail("no append came through")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(4)))
    assert ids_of(catalog.load_table(name)) == sorted(n * 10 + step for n in range(4) for step in range(4))


def test_a_commit_on_an_old_state_is_a_conflict(catalog: RestCatalog, name: str) -> None:
    catalog.create_table(name, SCHEMA, properties={"commit.retry.num-retries": "0"})
    first, second = catalog.load_table(name), catalog.load_table(name)
    first.append(rows(1))
    with pytest.raises(CommitFailedException, match="requirement"):
        second.append(rows(2))
    assert ids_of(catalog.load_table(name)) == [1]


def test_a_commit_that_is_sent_twice_happens_once(url: str, catalog: RestCatalog, name: str) -> None:
    table = catalog.create_table(name, SCHEMA)
    table.append(rows(1))
    metadata = table.metadata
    snapshot = json.loads(metadata.snapshots[0].model_dump_json())
    body = {
        "requirements": [{"type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": None}],
        "updates": [
            {"action": "add-snapshot", "snapshot": snapshot},
            {"action": "set-snapshot-ref", "ref-name": "main", "type": "branch",
             "snapshot-id": snapshot["snapshot-id"]},
        ],
    }  # fmt: skip
    status, told, _ = ask(url, f"/namespaces/default/tables/{name[8:]}", "POST", body)
    assert status == 200
    assert told["metadata-location"] == table.metadata_location
    body["updates"][0]["snapshot"] = snapshot | {"snapshot-id": 1, "sequence-number": 9}
    status, told, _ = ask(url, f"/namespaces/default/tables/{name[8:]}", "POST", body)
    assert (status, told["error"]["type"], told["error"]["code"]) == (409, "CommitFailedException", 409)


def test_a_table_is_staged_made_with_rows_and_partitioned_in_one_transaction(
    catalog: RestCatalog, url: str, name: str
) -> None:
    schema = Schema(NestedField(1, "t", TimestamptzType(), required=False), NestedField(2, "v", LongType()))
    with catalog.create_table_transaction(name, schema) as change:
        with change.update_spec() as update:
            update.add_field("v", IdentityTransform(), "v_part")
        arrow = pa.table({"t": pa.array([0, 86_400_000_000], pa.timestamp("us", "UTC")), "v": [1, 2]})
        change.append(arrow)
    assert len(sql(url, f"SELECT * FROM {name}")) == 2
    assert [field.name for field in catalog.load_table(name).spec().fields] == ["v_part"]
    with pytest.raises(TableAlreadyExistsError):
        catalog.create_table(name, SCHEMA)


def test_tables_are_renamed_dropped_purged_and_registered(catalog: RestCatalog, url: str, name: str) -> None:
    table = catalog.create_table(name, SCHEMA)
    table.append(rows(1))
    other = name + "x"
    assert ids_of(catalog.rename_table(name, other)) == [1]
    with pytest.raises(NoSuchTableError):
        catalog.load_table(name)
    assert sql(url, f"SELECT id FROM {other}") == [{"id": 1}]
    place = catalog.load_table(other).metadata_location
    catalog.drop_table(other)
    assert not catalog.table_exists(other)
    back = catalog.register_table(name, place)
    assert ids_of(back) == [1]
    back.append(rows(2))
    assert len(sql(url, f"SELECT id FROM {name}")) == 2
    folder = Path(back.location().removeprefix("file://"))
    catalog.purge_table(name)
    assert not [each for each in folder.rglob("*") if each.is_file()]
    with pytest.raises(NoSuchTableError):
        catalog.drop_table(name)


def test_the_primary_key_and_the_place_of_a_table_stay(catalog: RestCatalog, url: str, name: str) -> None:
    keyed = Schema(*SCHEMA.fields, identifier_field_ids=[7])
    table = catalog.create_table(name, keyed)
    sql(url, f"INSERT INTO {name} VALUES (1, 'a', 1) ON CONFLICT DO UPDATE SET name = EXCLUDED.name")
    with pytest.raises(Exception, match="primary key"), table.update_schema() as update:
        update.set_identifier_fields()
    path = f"/namespaces/default/tables/{name[8:]}"
    moved = {"updates": [{"action": "set-location", "location": "file:///elsewhere"}]}
    assert ask(url, path, "POST", moved)[0] == 400
    newer = {"updates": [{"action": "upgrade-format-version", "format-version": 3}]}
    assert ask(url, path, "POST", newer)[1]["error"]["type"] == "UnsupportedOperationException"


def test_a_table_cannot_lie_outside_the_lake_nor_in_another_table(catalog: RestCatalog, url: str, name: str) -> None:
    table = catalog.create_table(name, SCHEMA)
    lake = table.location().rpartition("/tables/")[0]
    for place in ("file:///tmp/elsewhere", f"{lake}/../x", lake, f"{lake}/_firnline/log", f"{table.location()}/data"):
        with pytest.raises(ForbiddenError):
            catalog.create_table(name + "x", SCHEMA, location=place)
    made = catalog.create_table(name + "x", SCHEMA, location=f"{lake}/mine/{name}")
    assert made.location() == f"{lake}/mine/{name}"


def test_only_iceberg_tables_are_shown(catalog: RestCatalog, url: str, name: str) -> None:
    sql(url, f"CREATE TABLE {name} (id BIGINT)")
    assert tuple(name.split(".")) not in catalog.list_tables("default")
    assert not catalog.table_exists(name)
    with pytest.raises(NoSuchTableError, match="not an iceberg table"):
        catalog.load_table(name)


def test_answers_have_the_forms_of_the_api(catalog: RestCatalog, url: str, name: str) -> None:
    table = catalog.create_table(name, SCHEMA)
    table.append(rows(1))
    table.append(rows(2))
    path = f"/namespaces/default/tables/{name[8:]}"
    status, config, _ = ask(url, "/config")
    assert status == 200
    assert "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}" in config["endpoints"]
    status, told, headers = ask(url, path + "?snapshots=refs")
    assert [each["snapshot-id"] for each in told["metadata"]["snapshots"]] == [told["metadata"]["current-snapshot-id"]]
    assert told["config"] == {}
    assert ask(url, path + "?snapshots=refs", If_None_Match=headers["ETag"])[0] == 304
    assert len(ask(url, path)[1]["metadata"]["snapshots"]) == 2
    assert ask(url, path, "HEAD")[:2] == (204, None)
    assert ask(url, path + "x", "HEAD")[:2] == (404, None)
    assert ask(url, path + "/metrics", "POST", {"report-type": "scan-report"})[0] == 204
    status, told, _ = ask(url, path + "x")
    assert (status, told["error"]["type"], told["error"]["code"]) == (404, "NoSuchTableException", 404)
    status, told, _ = ask(url, "/namespaces", "POST", {"namespace": "wrong"})
    assert (status, told["error"]["type"]) == (400, "BadRequestException")
    status, told, _ = ask(url, path, "POST", {"updates": [{"action": "dance"}]})
    assert (status, told["error"]["type"]) == (400, "BadRequestException")
    assert ask(url, "/oauth/tokens", "POST", {})[0] == 404


def test_lists_come_in_pages(catalog: RestCatalog, url: str) -> None:
    catalog.create_namespace("pages")
    names = [f"t{number}" for number in range(5)]
    for each in names:
        catalog.create_table(f"pages.{each}", SCHEMA)
    found, token = [], ""
    for _ in range(3):
        status, told, _ = ask(url, f"/namespaces/pages/tables?pageSize=2&pageToken={token}")
        assert status == 200
        found += [each["name"] for each in told["identifiers"]]
        token = told["next-page-token"]
    assert (found, token) == (names, None)
    paged = RestCatalog("firn", uri=f"{url}/iceberg", token="none", **{"rest-page-size": "2"})
    assert sorted(each[1] for each in paged.list_tables("pages")) == names
    assert ask(url, "/namespaces?pageSize=0")[0] == 400


def test_duckdb_attaches_the_catalog_and_reads(catalog: RestCatalog, url: str, name: str) -> None:
    from tests.support.duckdb_readers import duckdb_with

    catalog.create_table(name, SCHEMA).append(rows(1, 2))
    with duckdb_with("avro", "httpfs", "iceberg") as connection:
        connection.execute(f"ATTACH '' AS firn (TYPE iceberg, ENDPOINT '{url}/iceberg', AUTHORIZATION_TYPE 'none')")
        found = connection.execute(f"SELECT id FROM firn.{name} ORDER BY id").fetchall()
    assert found == [(1,), (2,)]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Callable[[str], str]]]:
    """A server that asks for tokens, and a way to make them."""
    import asyncio

    from catalog.kv.open import open_kv
    from catalog.tokens import create_token
    from storage.clock import SystemClock

    lake = tmp_path_factory.mktemp("guarded")

    async def make(role: Any) -> str:
        kv = await open_kv(f"sqlite://{lake}/catalog.db", SystemClock())
        try:
            return str((await create_token(kv, SystemClock(), role, role))[1])
        finally:
            await kv.close()

    tokens = {role: asyncio.run(make(role)) for role in ("reader", "writer")}
    with serving(ServeSettings(EngineSettings(lake=str(lake), allow=()), port=0, require_tokens=True)) as found:
        yield found, tokens.__getitem__


def test_tokens_say_who_may_write(guarded: tuple[str, Callable[[str], str]]) -> None:
    url, token = guarded
    status, told, headers = ask(url, "/config")
    assert (status, told["error"]["type"]) == (401, "NotAuthorizedException")
    assert "Bearer" in headers["WWW-Authenticate"]
    writer = RestCatalog("firn", uri=f"{url}/iceberg", token=token("writer"))
    reader = RestCatalog("firn", uri=f"{url}/iceberg", token=token("reader"))
    writer.create_table("default.t", SCHEMA).append(rows(1))
    assert ids_of(reader.load_table("default.t")) == [1]
    for forbidden in (
        lambda: reader.create_namespace("x"),
        lambda: reader.load_table("default.t").append(rows(2)),
        lambda: reader.drop_table("default.t"),
    ):
        with pytest.raises(ForbiddenError, match="reader"):
            forbidden()
    assert ids_of(writer.load_table("default.t")) == [1]
