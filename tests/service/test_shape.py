"""Statements too deep for the engine's stack are refused, and those people write are not."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from service.lexer import tokenize
from service.shape import check_shape
from storage.errors import TooLargeError

DEEP: dict[str, Callable[[int], str]] = {
    "brackets": lambda n: "SELECT " + "(" * n + "1" + ")" * n,
    "sum": lambda n: "SELECT " + "+".join(["x"] * n) + " FROM (SELECT 1 AS x)",
    "sums in brackets": lambda n: "SELECT " + "(x+x+x+x+x+x+x+x+" * (n // 9) + "x" + ")" * (n // 9) + " FROM t",
    "and": lambda n: "SELECT 1 WHERE " + " AND ".join(f"1<>{i}" for i in range(n)),
    "or": lambda n: "SELECT 1 WHERE " + " OR ".join(f"1={i} AND 2={i}" for i in range(n)),
    "not": lambda n: "SELECT " + "NOT " * n + "true",
    "minus": lambda n: "SELECT " + "- " * n + "1",
    "cast": lambda n: "SELECT 1" + "::int" * n,
    "index": lambda n: "SELECT a" + "[1]" * n + " FROM t",
    "interval": lambda n: "SELECT " + "INTERVAL " * n + "'1 day'",
    "explain": lambda n: "EXPLAIN " * n + "SELECT 1",
    "case": lambda n: "SELECT " + "CASE WHEN true THEN " * n + "1" + " END" * n,
    "case in brackets": lambda n: "SELECT " + "CASE WHEN true THEN (" * n + "1" + ") END" * n,
    "subqueries": lambda n: "SELECT * FROM (" * n + "SELECT 1" + ")" * n,
    "join": lambda n: "SELECT 1 FROM (SELECT 1 x) t0 " + " ".join(
        f"LEFT JOIN (SELECT 1 x) t{i} ON t{i - 1}.x = t{i}.x" for i in range(1, n)
    ),
    "comma join": lambda n: "SELECT 1 FROM " + ", ".join(f"(SELECT 1) t{i}" for i in range(n)),
    "union": lambda n: " UNION ALL ".join(["SELECT 1"] * n),
    "except": lambda n: " EXCEPT ".join(["SELECT 1"] * n),
    "ctes": lambda n: "WITH c0 AS (SELECT 1 AS x)" + "".join(
        f", c{i} AS (SELECT x+1+1+1+1 AS x FROM c{i - 1} WHERE x > 0)" for i in range(1, n)
    ) + f" SELECT * FROM c{n - 1}",
    "brackets of types": lambda n: "SELECT CAST(NULL AS " + "ARRAY<" * n + "INT" + ">" * n + ")",
}  # fmt: skip


@pytest.mark.parametrize("shape", DEEP)
def test_a_statement_that_is_too_deep_is_refused(shape: str) -> None:
    if shape == "case":
        pytest.skip("the engine's parser refuses it at a depth of 50, with a place")
    sql = DEEP[shape](5_000)
    with pytest.raises(TooLargeError, match="too"):
        check_shape(sql, tokenize(sql))


@pytest.mark.slow
@pytest.mark.parametrize("shape", DEEP)
def test_the_deepest_statement_that_passes_does_not_end_the_process(shape: str) -> None:
    """In a process of its own, since a stack that overflows kills it."""
    low, high = 1, 5_000
    while high - low > 1:
        middle = (low + high) // 2
        sql = DEEP[shape](middle)
        try:
            check_shape(sql, tokenize(sql))
            low = middle
        except TooLargeError:
            high = middle
    program = (
        "import sys, datafusion\n"
        "try: datafusion.SessionContext().sql(sys.stdin.read()).collect()\n"
        "except Exception: pass\n"
    )
    if shape == "comma join":
        low = min(low, 100)  # planning time grows with the cube
    done = subprocess.run([sys.executable, "-c", program], input=DEEP[shape](low), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM t WHERE x IN (" + ",".join(map(str, range(50_000))) + ")",
        "SELECT " + ", ".join(f"CASE WHEN x = {i} AND y <> 2 THEN x + {i} ELSE 0 END AS c{i}" for i in range(1_000)),
        "SELECT CASE " + " ".join(f"WHEN x = {i} THEN {i} + 1" for i in range(2_000)) + " END FROM t",
        "SELECT count(*) FROM t WHERE " + " AND ".join(f"x <> {i}" for i in range(900)),
        "SELECT " + ", ".join(f"a{i} IS DISTINCT FROM b{i}" for i in range(1_000)) + " FROM t",
        "VALUES " + ", ".join(f"({i}, {i} * 2)" for i in range(20_000)),
        " UNION ALL ".join(["SELECT a + b * c FROM t WHERE d = 1 AND e = 2"] * 900),
        "WITH " + ", ".join(f"c{i} AS (SELECT a, sum(b) FROM t WHERE d = {i} AND e < 3 GROUP BY a)" for i in range(60))
        + " SELECT * FROM " + " JOIN ".join(f"c{i}" for i in range(60)),
    ],
)  # fmt: skip
def test_a_wide_statement_passes(sql: str) -> None:
    check_shape(sql, tokenize(sql))
