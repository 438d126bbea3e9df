"""IS DISTINCT FROM beside AND and OR, which the engine's parser binds wrongly."""

import pytest

from service.parse import parse
from storage.errors import SqlError


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a IS DISTINCT FROM b AND c",
        "SELECT * FROM t WHERE a IS NOT DISTINCT FROM 1 or b = 2",
        "SELECT * FROM t WHERE (a IS DISTINCT FROM f(b, c) AND d)",
        "SELECT CASE WHEN a IS DISTINCT FROM b AND c THEN 1 END",
        "SELECT * FROM t JOIN u ON a IS DISTINCT FROM b AND c = d",
    ],
)
def test_what_would_be_read_wrongly_is_refused_with_its_place(sql: str) -> None:
    with pytest.raises(SqlError, match="brackets") as caught:
        parse(sql)
    column = caught.value.facts["column"]
    assert sql[column - 1 :].upper().startswith(("AND", "OR"))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT (a IS DISTINCT FROM b) AND c",
        "SELECT c AND a IS DISTINCT FROM b",
        "SELECT a IS DISTINCT FROM (b AND c), d AND e",
        "SELECT a IS DISTINCT FROM b FROM t WHERE c AND d",
        "SELECT DISTINCT a FROM t WHERE b AND c",
        "SELECT CASE WHEN a IS DISTINCT FROM b THEN c AND d END",
        "SELECT 'IS DISTINCT FROM b AND c'",
    ],
)
def test_what_is_read_rightly_passes(sql: str) -> None:
    assert parse(sql).sql == sql
