"""Have coordinators of one release ask workers of another: rows are those of the coordinator alone, or there are none.

    make rolling FROM=COMMIT        # a commit, or several, that `firn worker` is in

The other release is this repository's at a commit, in a folder of its own, with the packages of this environment. Its
coordinator runs statements in its own process, then on workers of this release; then the reverse, on the same lake.
Ends with 1 where rows differ. An error is told, and is none: a client can try again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.firn import environment

_ROOT = Path(__file__).parents[1]
_SECRET = "a secret of this program and of no other"
_LAKE = (
    "CREATE TABLE d (id BIGINT PRIMARY KEY, g BIGINT, v DOUBLE, s VARCHAR, m DECIMAL(12,2)) USING delta",
    "INSERT INTO d SELECT value, value % 17, CASE WHEN value % 1000 = 0 THEN CAST('NaN' AS DOUBLE) "
    "ELSE value / 3.0 END, 's' || (value % 1009), CAST(value % 100000 AS DECIMAL(12,2)) / 7 "
    "FROM generate_series(1, 100000)",
    "OPTIMIZE d",
    "UPDATE d SET v = -1 WHERE id % 10000 = 7",
    "DELETE FROM d WHERE id % 9999 = 3",
    "INSERT INTO d SELECT value, 99, 0.5, 'tail', 1 FROM generate_series(300001, 300100)",
    "CREATE TABLE p (k BIGINT, day DATE, x DOUBLE) USING delta PARTITIONED BY (day)",
    "INSERT INTO p SELECT value % 5000, DATE '2026-01-01' + CAST(value % 5 AS INT), sqrt(value) "
    "FROM generate_series(1, 50000)",
    "OPTIMIZE p",
    "CREATE TABLE i (k BIGINT, t VARCHAR) USING iceberg",
    "INSERT INTO i SELECT value, 'n' || (value % 13) FROM generate_series(1, 50000)",
    "OPTIMIZE i",
    "INSERT INTO i SELECT value, 'tail' FROM generate_series(50001, 50050)",
)
_STATEMENTS = (
    "SELECT count(*), sum(g), min(id), max(id) FROM d",
    "SELECT g, count(*) AS n, sum(m) AS m, max(s) AS s FROM d GROUP BY g ORDER BY g",
    "SELECT g, count(v) AS n, min(v) AS a, max(v) AS b FROM d WHERE v < 1000 GROUP BY g ORDER BY g",
    "SELECT count(*) FROM d WHERE v > 30000",
    "SELECT id, v FROM d WHERE v IS NOT NULL ORDER BY v DESC, id LIMIT 7",
    "SELECT DISTINCT s FROM d WHERE id % 3 = 0 ORDER BY s LIMIT 20",
    "SELECT p.day, count(*) AS n, sum(d.m) AS m FROM p JOIN d ON p.k = d.id GROUP BY p.day ORDER BY p.day",
    "SELECT i.t, count(*) AS n, sum(d.g) AS g FROM d JOIN i ON d.id = i.k GROUP BY i.t ORDER BY i.t",
    "SELECT count(*) FROM d LEFT JOIN p ON d.id = p.k WHERE p.k IS NULL",
    "SELECT count(*) FROM d WHERE id NOT IN (SELECT k FROM p WHERE day = DATE '2026-01-02')",
    "SELECT id, row_number() OVER (PARTITION BY g ORDER BY id DESC) AS r FROM d ORDER BY r, id LIMIT 25",
    "SELECT t, k FROM i ORDER BY t DESC, k LIMIT 12",
    "SELECT day, count(DISTINCT k) AS n FROM p GROUP BY day ORDER BY day",
    "SELECT g, s FROM d WHERE id = 4711",
    "SELECT g, median(m) AS m FROM d GROUP BY g ORDER BY g",
    "SELECT count(*) FROM (SELECT id FROM d UNION SELECT k FROM i)",
    "WITH x AS (SELECT g, max(id) AS id FROM d GROUP BY g) SELECT d.g, d.s FROM d JOIN x ON d.id = x.id ORDER BY d.g",
)


@contextmanager
def _server(release: Path, lake: Path, *command: str, **variables: str) -> Iterator[str]:
    """Yield the URL of a server of a release."""
    told = environment(
        PYTHONPATH=str(release), PYTHONDONTWRITEBYTECODE="1", FIRN_TASK_SECRET=_SECRET, **variables
    )  # fmt: skip
    program = [sys.executable, "-c", "from firnline.cli import main; main()", *command]
    with (
        (lake.parent / "log").open("w+") as log,
        subprocess.Popen([*program, "--lake", str(lake), "--port", "0"], cwd=release, env=told, text=True,
                         stdout=subprocess.PIPE, stderr=log) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line.startswith("listening on "):
                log.seek(0)
                raise SystemExit(f"{release.name}: firn {command[0]} does not start: {log.read()[-500:].strip()}")
            yield line.split()[-1]
        finally:
            process.terminate()


def _ask(url: str, sql: str, **members: str) -> dict[str, Any]:
    body = json.dumps({"sql": sql, **members}).encode()
    request = urllib.request.Request(f"{url}/v1/sql", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        problem = json.load(error)
        return {"error": f"{problem['title']}: {problem['detail']}"}


def _rows(answer: dict[str, Any]) -> Any:
    """Return rows to compare: a sum of floats depends on the order in which partitions come."""
    return [[round(v, 6) if isinstance(v, float) else v for v in row] for row in answer.get("rows", ())]


def _compare(coordinator: Path, worker: Path, lake: Path) -> int:
    """Print how the statements went; return how many had other rows than without workers."""
    with _server(coordinator, lake, "serve", FIRN_FUNCTIONS="inline", FIRN_COMPACT="0") as url:
        alone = [_ask(url, sql) for sql in _STATEMENTS]
    n = {"same": 0, "on workers": 0, "without workers": 0, "errors": 0, "wrong": 0}
    with (
        _server(worker, lake, "worker", "--concurrency", "4") as place,
        _server(coordinator, lake, "serve", FIRN_FUNCTIONS=place, FIRN_COMPACT="0") as url,
    ):
        for sql, expected in zip(_STATEMENTS, alone, strict=True):
            answer = _ask(url, sql, functions="fan-out")
            if "error" in answer:
                n["errors"] += 1
                print(f"  {answer['error']}: {sql}")
                continue
            same = "error" in expected or _rows(answer) == _rows(expected)
            n["same" if same else "wrong"] += 1
            n["without workers" if answer["receipt"].get("workers_differ") else "on workers"] += 1
            if not same:
                print(f"  WRONG: {sql}: {_rows(answer)[:3]}, and alone {_rows(expected)[:3]}")
    told = ", ".join(f"{many} {what}" for what, many in n.items())
    print(f"a coordinator of {coordinator.name}, workers of {worker.name}: {told}", flush=True)
    return n["wrong"]


def main(commits: list[str]) -> int:
    """Compare this release with each of the commits, both ways; return 1 where rows differ."""
    if not commits:
        raise SystemExit("name a commit: make rolling FROM=COMMIT")
    n_wrong = 0
    for commit in commits:
        with tempfile.TemporaryDirectory() as scratch:
            other, lake = Path(scratch) / commit, Path(scratch) / "lake"
            other.mkdir()
            archive = subprocess.run(["git", "archive", commit], cwd=_ROOT, stdout=subprocess.PIPE, check=True)
            subprocess.run(["tar", "-x", "-C", str(other)], input=archive.stdout, check=True)
            with _server(other, lake, "serve") as url:
                for sql in _LAKE:
                    if error := _ask(url, sql).get("error"):
                        raise SystemExit(f"{commit}: {error}: {sql}")
            n_wrong += _compare(other, _ROOT, lake) + _compare(_ROOT, other, lake)
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
