"""The main job on the local stack: rows in over HTTP, out through Lambda workers, by key, and to readers from outside.

One story, told in order; `make e2e` runs it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.firn import firn
from tests.support.stack import LocalStack

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

_TABLES = {"orders": "delta", "trips": "iceberg"}
_N_LOADED, _N_SENT = 300_000, 200


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    stack = LocalStack(tmp_path_factory.mktemp("stack") / "s")
    try:
        stack.up()
        yield stack
    finally:
        stack.down("--data", "delete")
    assert stack.processes() == {}


def _post(stack: LocalStack, path: str, body: Any, **headers: str) -> dict[str, Any]:
    answer = httpx.post(stack.url + path, json=body, headers=headers, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def _invocations(stack: LocalStack) -> int:
    shown = httpx.get(stack.variables()["AWS_ENDPOINT_URL"] + "/_front", trust_env=False).json()
    return sum(each["invocations"] for each in shown["firnline-worker"])


def test_05_tables_are_made_and_rows_come_in_over_http(stack: LocalStack) -> None:
    for table, format_ in _TABLES.items():
        stack.sql(f"CREATE TABLE {table} (id BIGINT PRIMARY KEY, city VARCHAR, amount DOUBLE) USING {format_}")
        stack.sql(
            f"INSERT INTO {table} SELECT value, 'city' || (value % 7), value / 2.0 FROM generate_series(1, {_N_LOADED})"
        )
        rows = [{"id": -1 - number, "city": "sent", "amount": 0.5} for number in range(_N_SENT)]
        for _ in range(2):  # a client's retry
            answer = _post(stack, f"/v1/tables/default.{table}/rows", rows, **{"Idempotency-Key": "once"})
        assert answer["ack"] == "object" and answer["idempotent_replay"] is True


def test_10_rows_are_there_before_they_are_compacted(stack: LocalStack) -> None:
    for table in _TABLES:
        assert stack.sql(f"SELECT count(*) FROM {table}")["rows"] == [[_N_LOADED + _N_SENT]]


def test_20_compaction_folds_the_log_into_the_tables(stack: LocalStack) -> None:
    for table in _TABLES:
        stack.sql(f"OPTIMIZE {table}")
        assert stack.sql(f"SELECT count(*) FROM {table}")["receipt"]["tail_rows"] == 0


@pytest.mark.parametrize("table", _TABLES)
def test_30_queries_run_as_tasks_of_lambda_functions(stack: LocalStack, table: str) -> None:
    before = _invocations(stack)
    sql = f"SELECT city, count(*) AS n, sum(amount) AS total FROM {table} WHERE id > 0 GROUP BY city ORDER BY city"
    there, here = stack.sql(sql, functions="fan-out"), stack.sql(sql, functions="inline")
    assert there["rows"] == here["rows"] and len(here["rows"]) == 7
    assert there["receipt"]["tasks"] > 1 and there["receipt"]["cost_usd"] > 0, there["receipt"]
    assert _invocations(stack) > before + 1


@pytest.mark.parametrize("table", _TABLES)
def test_40_rows_are_found_by_their_keys(stack: LocalStack, table: str) -> None:
    keys = [299_999, -7, 12_345_678]
    answer = _post(stack, f"/v1/lookup/default.{table}", {"keys": keys, "columns": ["id", "city"]})
    assert answer["rows"] == [[299_999, "city0"], [-7, "sent"]]
    assert answer["missing"] == [12_345_678]


def test_50_deltalake_reads_the_table_from_outside(stack: LocalStack) -> None:
    from deltalake import DeltaTable

    shown = httpx.get(f"{stack.url}/v1/tables/default.orders", trust_env=False).json()
    variables = stack.variables()
    options = {name: value for name, value in variables.items() if name.startswith("AWS_")}
    options |= {"AWS_ENDPOINT_URL": variables["AWS_ENDPOINT_URL_S3"], "AWS_ALLOW_HTTP": "true"}
    found = DeltaTable(shown["location"], storage_options=options).to_pyarrow_table(columns=["id"])
    assert found.num_rows == _N_LOADED + _N_SENT
    assert len(set(found.column("id").to_pylist())) == found.num_rows


def test_51_pyiceberg_reads_the_table_from_outside(stack: LocalStack) -> None:
    from pyiceberg.catalog import load_catalog

    variables = stack.variables()
    catalog = load_catalog(
        "firn",
        **{
            "type": "rest",
            "uri": f"{stack.url}/iceberg",
            "s3.endpoint": variables["AWS_ENDPOINT_URL_S3"],
            "s3.access-key-id": variables["AWS_ACCESS_KEY_ID"],
            "s3.secret-access-key": variables["AWS_SECRET_ACCESS_KEY"],
            "s3.region": variables["AWS_REGION"],
        },
    )
    found = catalog.load_table("default.trips").scan(selected_fields=("id",)).to_arrow()
    assert found.num_rows == _N_LOADED + _N_SENT


def test_60_the_shells_variables_lead_firn_to_the_same_lake(stack: LocalStack) -> None:
    variables = stack.variables()
    variables.pop("STACK_URL")
    done = firn("sql", "SELECT count(*) AS n FROM orders", "--format", "json", cwd=stack.folder, **variables)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == [[_N_LOADED + _N_SENT]]


def test_70_every_part_but_the_object_store_may_be_killed_and_nothing_is_lost(stack: LocalStack) -> None:
    _post(stack, "/v1/tables/default.orders/rows", [{"id": -1000, "city": "late", "amount": 1.0}])
    for part in ("wal", "workers", "endpoint", "etcd"):
        stack.kill(part)
    said = stack.up()
    assert said.count("is ready after") == 4 and "s3 runs" in said
    assert stack.sql("SELECT count(*) FROM orders")["rows"] == [[_N_LOADED + _N_SENT + 1]]
    grouped = "SELECT city, count(*) AS n FROM trips GROUP BY city ORDER BY city"
    assert stack.sql(grouped, functions="fan-out")["rows"] == stack.sql(grouped, functions="inline")["rows"]


def test_80_the_stack_ends_and_comes_back_with_its_tables(stack: LocalStack) -> None:
    stack.down()
    assert stack.processes() == {}
    assert stack.run("status").returncode == 1
    said = stack.up()
    assert "objects back" in said
    assert stack.sql("SELECT city FROM orders WHERE id = -1000")["rows"] == [["late"]]
    assert stack.sql("SELECT count(*) FROM trips")["rows"] == [[_N_LOADED + _N_SENT]]
