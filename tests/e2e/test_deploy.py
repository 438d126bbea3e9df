"""docs/deploy.md: its commands on this machine run as they stand there, and what it names and quotes is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from firnline import settings
from tests.support.firn import environment
from tests.support.stack import LocalStack

_ROOT = Path(__file__).parents[2]
_PAGE = (_ROOT / "docs" / "deploy.md").read_text()


def _section(title: str) -> str:
    found = re.search(rf"(?ms)^## {title}\n(.*?)(?=^## |\Z)", _PAGE)
    assert found, title
    return found[1]


def _commands(title: str) -> str:
    return "\n".join(re.findall(r"(?ms)^```sh\n(.*?)^```", _section(title)))


def test_every_setting_that_the_page_names_is_known() -> None:
    known = {variable.name for variable, _default in settings.variables().values()} | set(settings.AWS_VARIABLES)
    assert set(re.findall(r"\bFIRN_[A-Z_]+[A-Z]\b", _PAGE)) <= known


def test_every_target_and_path_that_the_page_names_is_there() -> None:
    targets = set(re.findall(r"(?m)^([a-z0-9-]+):", (_ROOT / "Makefile").read_text()))
    assert set(re.findall(r"(?m)(?:^|^\$ |`)make ([a-z0-9-]+)", _PAGE)) <= targets
    for path in re.findall(r"\]\(\.\./([^)#]+)", _PAGE):
        assert (_ROOT / path).exists(), path
    for path in (
        "infra/knative/overlays/prod",
        "terraform/envs/dev",
        "localstack/compose.yaml",
        "localstack/lambda_rie.py",
    ):
        assert path in _PAGE and (_ROOT / path).exists()
    headings = {
        re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in re.findall(r"(?m)^## (.*)$", _PAGE)
    }
    assert set(re.findall(r"\]\(#([a-z-]+)\)", _PAGE)) <= headings


def test_every_message_of_ours_in_the_troubleshooting_table_is_one_that_is_said() -> None:
    rows = re.findall(r"(?m)^\| (`.+?`)[^|]* \|", _section("Troubleshooting"))
    said = "".join(
        path.read_text()
        for folder in ("firnline", "service", "functions", "catalog", "storage", "localstack")
        for path in (_ROOT / folder).rglob("*.py")
    )
    said = re.sub(r'"\s*\n\s*f?"', "", said)  # texts over several lines
    for row in rows:
        quoted = row.strip("`").removeprefix("error: ")
        for piece in re.split(r"; | … |…|\b[NX]\b|\d+|`", quoted):
            text = piece.strip(" :;,") if len(piece) > 12 else ""
            assert text in said, (row, text)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[LocalStack]:
    stack = LocalStack(tmp_path / "s")
    if not (_ROOT / ".tools" / "bin" / "uv").exists():
        pytest.skip("the Makefile's uv is not installed; make setup")
    yield stack
    stack.down("--data", "delete")
    assert stack.processes() == {}


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_commands_for_this_machine_run_as_they_stand_there_and_the_catalog_comes_back(stack: LocalStack) -> None:
    if shutil.which("etcdctl") is None:
        pytest.skip("the program etcdctl is not installed; apt-get install etcd-client")
    after = 'firn sql --lake "$STACK_URL" "CREATE TABLE since (id BIGINT)"\n'
    script = [
        "set -euo pipefail",
        # What is installed stays as it is, and the stack is the test's own.
        f'make() {{ command make --silent -o setup STACK={stack.folder} "$@"; }}',
        _commands("On this machine").replace("build/stack", str(stack.folder)),
        _commands("Back up the catalog")
        .replace("build/stack", str(stack.folder))
        .replace("make down", after + "make down"),
        'firn sql --lake "$STACK_URL" --format csv "SELECT count(*), min(page) FROM visits"',
        'firn sql --lake "$STACK_URL" --format csv "SHOW TABLES"',
    ]
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=_ROOT, env=environment(PATH=os.environ["PATH"]), text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert '"row_count":8' in done.stdout and "the lake is sound" in done.stdout
    assert "300000,/" in done.stdout
    assert "visits" in done.stdout.splitlines()[-1] and "since" not in done.stdout.splitlines()[-1]
