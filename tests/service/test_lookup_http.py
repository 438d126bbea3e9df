"""Rows by their keys over HTTP: what is found and what is not, formats, and keys that are none."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx
import pyarrow as pa
import pytest

from service.server import ServeSettings
from service.settings import EngineSettings
from tests.support.serving import serving

TABLES = """
CREATE TABLE users (id BIGINT, name VARCHAR, score DECIMAL(10, 2), PRIMARY KEY (id)) USING delta;
INSERT INTO users VALUES (1, 'Ada', 1.50), (2, 'Bo', NULL), (3, 'Cy', 2.00);
OPTIMIZE users;
INSERT INTO users VALUES (4, 'Di', 9.99);
DELETE FROM users WHERE id = 3;
CREATE TABLE visits (day DATE, place VARCHAR, at TIMESTAMPTZ, n BIGINT) USING delta;
INSERT INTO visits VALUES ('2026-01-01', 'Bern', '2026-01-01T01:00:00Z', 1), ('2026-01-01', 'Basel', NULL, 2),
  ('2026-01-02', 'Bern', '2026-01-02T01:00:00Z', 3), ('2026-01-01', 'Bern', NULL, 4)
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    settings = EngineSettings(lake=str(tmp_path_factory.mktemp("lake")))
    with serving(ServeSettings(engine=settings, port=0)) as url, httpx.Client(base_url=url, timeout=60) as client:
        for statement in TABLES.split(";"):
            answer = client.post("/v1/sql", json={"sql": statement})
            assert answer.status_code == 200, answer.text
        yield client


def lookup(client: httpx.Client, table: str, keys: list[Any], **members: Any) -> httpx.Response:
    return client.post(f"/v1/lookup/{table}", json={"keys": keys, **members})


def test_rows_come_in_the_order_of_the_keys_and_missing_ones_are_told(client: httpx.Client) -> None:
    answer = lookup(client, "default.users", [4, 99, 1, 3, 2])
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["columns"] == [
        {"name": "id", "type": "int64"}, {"name": "name", "type": "string"},
        {"name": "score", "type": "decimal128(10, 2)"},
    ]  # fmt: skip
    assert found["rows"] == [[4, "Di", "9.99"], [1, "Ada", "1.50"], [2, "Bo", None]]
    assert found["row_count"] == found["receipt"]["rows"] == 3
    assert found["found"] == [True, False, True, False, True]
    assert found["missing"] == [99, 3]
    assert answer.headers["x-firnline-missing"] == "2"
    assert answer.headers["x-statement-id"] == found["statement_id"]


def test_a_key_that_is_asked_for_twice_has_its_rows_twice(client: httpx.Client) -> None:
    found = lookup(client, "users", [2, 1, 2], columns=["name"]).json()
    assert found["rows"] == [["Bo"], ["Ada"], ["Bo"]]
    assert found["found"] == [True, True, True]


def test_by_other_columns_and_keys_of_several(client: httpx.Client) -> None:
    keys = [["2026-01-02", "Bern"], ["2026-01-02", "Basel"], ["2026-01-01", "Bern"]]
    found = lookup(client, "visits", keys, by=["day", "place"], columns=["n"]).json()
    assert found["rows"][0] == [3]
    assert sorted(found["rows"][1:]) == [[1], [4]]
    assert found["missing"] == [["2026-01-02", "Basel"]]
    at = lookup(client, "visits", ["2026-01-01T02:00:00+01:00", "2026-01-02T01:00:00Z"], by=["at"]).json()
    assert [row[0] for row in at["rows"]] == ["2026-01-01T01:00:00.000000Z", "2026-01-02T01:00:00.000000Z"]
    scores = lookup(client, "users", ["1.50", 9.990, "7"], by="score", columns=["id"]).json()
    assert (scores["rows"], scores["missing"]) == ([[1], [4]], ["7"])


@pytest.mark.parametrize("form", ["ndjson", "csv", "arrow", "parquet"])
def test_other_formats_have_the_rows_and_a_header(client: httpx.Client, form: str) -> None:
    answer = lookup(client, "users", [1, 99], format=form, columns=["id", "name"])
    assert answer.status_code == 200
    assert answer.headers["x-firnline-missing"] == "1"
    if form == "arrow":
        table = pa.ipc.open_stream(io.BytesIO(answer.content)).read_all()
        assert table.to_pylist() == [{"id": 1, "name": "Ada"}]
        assert table.schema.metadata[b"firnline.missing"] == b"1"
    elif form != "parquet":
        assert "Ada" in answer.text


def test_many_keys_at_once_equal_a_scan(client: httpx.Client) -> None:
    keys = list(range(-3000, 3000))
    found = lookup(client, "users", keys).json()
    assert [row[0] for row in found["rows"]] == [1, 2, 4]
    assert len(found["found"]) == 6000
    assert sum(found["found"]) == 3
    pairs = [["2026-01-01", f"p{n}"] for n in range(40)] + [["2026-01-01", "Basel"]]
    assert lookup(client, "visits", pairs, by=["day", "place"], columns=["n"]).json()["rows"] == [[2]]


def test_no_keys_find_nothing(client: httpx.Client) -> None:
    found = lookup(client, "users", []).json()
    assert (found["rows"], found["found"], found["missing"]) == ([], [], [])


@pytest.mark.parametrize(
    ("table", "members", "status", "words"),
    [
        ("users", {"keys": [1, "2"]}, 400, ("whole number", "key=2", "column=id")),
        ("users", {"keys": [1.0]}, 400, ("whole number", "key=1")),
        ("users", {"keys": [True]}, 400, ("whole number",)),
        ("users", {"keys": [2**63]}, 400, ("does not fit", "key=1")),
        ("users", {"keys": [7, None]}, 400, ("NULL", "key=2")),
        ("users", {"keys": [[1]]}, 400, ("whole number", "key=1")),
        ("users", {"keys": ["1.505"], "by": ["score"]}, 400, ("without loss", "key=1")),
        ("visits", {"keys": [["2026-01-01"]], "by": ["day", "place"]}, 400, ("2 values: day, place", "key=1")),
        ("visits", {"keys": ["2026-02-30"], "by": ["day"]}, 400, ("no date", "key=1")),
        ("visits", {"keys": [1]}, 400, ("no primary key and no index", '"by"')),
        ("users", {"keys": [1], "by": ["nam"]}, 400, ('did you mean "name"?',)),
        ("users", {"keys": [1], "columns": ["x"]}, 400, ("no such column",)),
        ("users", {"keys": [1], "columns": []}, 400, ('"columns" is empty',)),
        ("users", {"keys": 1}, 400, ('"keys", an array',)),
        ("users", {"key": [1]}, 400, ('did you mean "keys"?',)),
        ("users", {"keys": [1], "route": "quick"}, 400, ('"route" must be one of auto, lookup, scan',)),
        ("nope", {"keys": [1]}, 404, ("no such table", "default.nope")),
        ("users", {"keys": [1] * 100_001}, 413, ("too many keys",)),
    ],
)
def test_what_is_no_look_up_is_refused(
    client: httpx.Client, table: str, members: dict[str, Any], status: int, words: tuple[str, ...]
) -> None:
    answer = client.post(f"/v1/lookup/{table}", json=members)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    for each in words:
        assert each in answer.json()["detail"]


def test_routes_of_statements_are_taken_and_checked(client: httpx.Client) -> None:
    for route in ("auto", "scan"):
        answer = client.post("/v1/sql", json={"sql": "SELECT name FROM users WHERE id = 1", "route": route})
        assert answer.json()["rows"] == [["Ada"]]
    assert client.post("/v1/sql", json={"sql": "SELECT 1", "route": "x"}).status_code == 400
