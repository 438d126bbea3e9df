"""The query worker's zip: fits Lambda, and runs tasks with nothing else installed and a root that cannot be written."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from functions.exchange import decode_page
from functions.invoke.lambda_event import event_of, reply_of
from functions.tasks import Reply, decode_reply, encode_task
from tests.support.lambda_local import LocalLambda, local_lambda, runtime_client
from tests.support.task_plans import stages_of, task_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PYTHON = "3.13"
SECRET = b"a secret of thirty-two characters"
CPU_S_MAX = 1.2
"""To the first row. The goal is 0.6, and 0.42 was measured; machines with other work take longer."""
_ROOT = Path(__file__).parents[2]
_LOCKED = """
set -e
mount --make-rprivate /
mount --bind "$TMPDIR" "$TMPDIR"
mount -o remount,bind,ro /
exec "$@"
"""


@dataclass(frozen=True)
class Built:
    """A zip that was built and unzipped. ``report`` is what the build printed."""

    archive: Path
    code: Path
    report: dict[str, Any]


def _builder() -> Any:
    spec = importlib.util.spec_from_file_location("lambda_build", _ROOT / "infra" / "lambda" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def interpreter() -> str:
    try:
        return str(_builder().interpreter_of(PYTHON))
    except SystemExit as error:
        pytest.skip(f"NOT TESTED: {error}")


@pytest.fixture(scope="module")
def built(interpreter: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    if shutil.which("strip") is None:
        pytest.skip("NOT TESTED: strip, of binutils, is not here")
    folder = tmp_path_factory.mktemp("zip")
    command = [sys.executable, str(_ROOT / "infra" / "lambda" / "build.py"), "--python", PYTHON, "--to", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    code = folder / "task"
    with zipfile.ZipFile(folder / report["zip"]) as archive:
        archive.extractall(code)
    yield Built(folder / report["zip"], code, report)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake")
    pq.write_table(pa.table({"k": range(200_000)}), folder / "t.parquet")
    return folder


@pytest.fixture(scope="module")
def here(built: Built, lake: Path, interpreter: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalLambda]:
    if os.geteuid() or subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED: mounts, for a root that cannot be written, need root")
    path = f"{built.code}:{runtime_client(PYTHON)}"
    function = {
        "handler": "functions.aws.worker", "code": str(built.code), "concurrency": 1, "timeout_s": 60,
        "command": ["unshare", "--mount", "sh", "-c", _LOCKED, "sh", interpreter, "-S", "-m", "awslambdaric"],
        "environment": {"FIRN_LAKE": str(lake), "FIRN_TASK_SECRET": SECRET.decode(), "PYTHONPATH": path},
    }  # fmt: skip
    with local_lambda(tmp_path_factory.mktemp("front"), {"worker": function}) as found:
        yield found


def ask(here: LocalLambda, lake: Path, sql: str) -> Reply:
    task = task_of(lake, payload=stages_of(lake, sql, 1).stages[0].plan)
    answer, failed = here.invoke("worker", event_of(encode_task(task, SECRET)))
    assert failed is None, answer
    return decode_reply(reply_of(answer), SECRET, task)


def rows(reply: Reply) -> list[dict[str, Any]]:
    assert reply.error is None, reply.error
    found: list[dict[str, Any]] = []
    for page in reply.pages:
        assert page.data is not None
        found += [row for batch in decode_page(page, page.data) for row in batch.to_pylist()]
    return found


def test_it_fits_with_room_to_grow(built: Built) -> None:
    with zipfile.ZipFile(built.archive) as archive:
        n_bytes = sum(each.file_size for each in archive.infolist())
        names = archive.namelist()
    assert n_bytes == built.report["unzipped_bytes"]
    assert n_bytes <= 250_000_000 < built.report["limit_bytes"] == 262_144_000
    assert {name for name in names if name.startswith("firnline/") and name.endswith(".py")} == {
        "firnline/__init__.py", "firnline/settings.py", "firnline/settings_text.py",
    }  # fmt: skip
    tops = {name.partition("/")[0] for name in names}
    assert not tops & {"service", "numba", "pandas", "deltalake", "boto3", "tests", "bin"}
    sources = {name for name in names if name.startswith("functions/") and name.endswith(".py")}
    compiled = {name for name in names if name.startswith("functions/") and name.endswith(".pyc")}
    assert len(sources) == len(compiled)


def test_a_cold_function_runs_tasks_in_a_locked_environment(here: LocalLambda, lake: Path) -> None:
    cold = ask(here, lake, "SELECT count(*) AS n, sum(k) AS s FROM t")
    assert rows(cold) == [{"n": 200_000, "s": 19_999_900_000}]
    [environment] = here.environments("worker")
    times = Path(f"/proc/{environment['runtime_pids'][0]}/stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    print(f"CPU seconds to the first row: {cpu_s}; memory: {cold.usage['memory_mb']:.0f} MB")
    assert cold.usage["cold"] == 1
    assert cpu_s < CPU_S_MAX
    warm = ask(here, lake, "SELECT k % 3 AS g, count(*) AS n FROM t GROUP BY 1 ORDER BY 1")
    assert warm.error is None
    assert warm.usage["cold"] == 0


def test_every_library_finds_all_that_it_calls_in_what_was_left(built: Built) -> None:
    """Arrow's libraries no longer name one that was left out; with LD_BIND_NOW what is missed fails at once."""
    names = [
        path.relative_to(built.code).as_posix().partition(".")[0].replace("/", ".")
        for path in built.code.rglob("*.so")
        if path.parent.name != "numpy.libs"
    ]
    assert {"pyarrow.lib", "pyarrow._dataset", "pyarrow._compute", "datafusion._internal"} <= set(names)
    program = f"import importlib, numpy\nfor name in {sorted(names)}: importlib.import_module(name)"
    done = subprocess.run(
        [_builder().interpreter_of(PYTHON), "-S", "-c", program], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(built.code), "LD_BIND_NOW": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert not list((built.code / "pyarrow").glob("libarrow_substrait*"))


def test_what_numpy_and_the_engine_compute_is_right_there(here: LocalLambda, lake: Path, built: Built) -> None:
    sql = "SELECT md5(CAST(k AS VARCHAR)) AS h, sqrt(k) AS r FROM t WHERE k IN (4, 9) ORDER BY k"
    assert [row["r"] for row in rows(ask(here, lake, sql))] == [2.0, 3.0]
    program = (
        "import numpy as n; a = n.arange(9.0).reshape(3, 3); print((a @ a).tolist(), round(n.linalg.det(a + n.eye(3))))"
    )
    done = subprocess.run(
        [_builder().interpreter_of(PYTHON), "-S", "-c", program], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(built.code)},
    )  # fmt: skip
    assert done.stdout.startswith("[[15.0, 18.0, 21.0], [42.0, 54.0, 66.0], [69.0, 90.0, 111.0]] -5")
