"""What Terraform and the manifests set is what the code reads: names of variables, values, handlers, sizes, times."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2
import pytest

from firnline.cli.app import firn
from firnline.settings import AWS_VARIABLES, OTEL_VARIABLES, read, variables
from functions.exchange import RESULTS_FOLDER
from functions.invoke.lambda_ import TIMEOUT_MS_MAX
from service.cost import WORKER_MEMORY_MB
from storage.errors import InvalidError

_ROOT = Path(__file__).parents[2]
_TERRAFORM = sorted(
    path
    for path in (_ROOT / "terraform").rglob("*")
    if path.name.endswith((".tf", ".tftest.hcl")) and ".terraform" not in path.parts
)
_MANIFESTS = sorted([*_ROOT.glob("infra/knative/**/*.yaml"), *_ROOT.glob("infra/knative/**/*.yml")])
_NAME = re.compile(r"\b((?:FIRN|AWS|OTEL)_[A-Z][A-Z0-9_]*)\b")
_LITERAL = re.compile(r'\b(FIRN_[A-Z0-9_]+) *= *"([^"$]*)"')
_WORDS = {"AWS_IAM", "AWS_PROXY"}
"""Of API Gateway."""
_CHAIN = {"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"}
"""What AWS's own libraries read to find credentials."""
_HANDLERS = {
    "query": "service.aws.endpoint",
    "worker": "functions.aws.worker",
    "compactor": "service.aws.compactor",
}


def _known() -> set[str]:
    return {variable.name for variable, _default in variables().values()} | set(AWS_VARIABLES) | set(OTEL_VARIABLES)


def _module(name: str, file: str) -> dict[str, Any]:
    with (_ROOT / "terraform" / "modules" / name / file).open() as source:
        return dict(hcl2.load(source))


def _plain(value: Any) -> Any:
    return value.strip('"') if isinstance(value, str) else value


def _defaults(name: str) -> dict[str, Any]:
    """Return the default of each of a module's variables."""
    found = {}
    for block in _module(name, "variables.tf")["variable"]:
        for variable, body in block.items():
            found[_plain(variable)] = _plain(body.get("default"))
    return found


def _call(name: str, called: str) -> dict[str, Any]:
    """Return the arguments with which a module calls another."""
    for block in _module(name, "main.tf")["module"]:
        for label, body in block.items():
            if _plain(label) == called:
                return {key: _plain(value) for key, value in body.items()}
    raise AssertionError(f"module {name} does not call {called}")


def _names(paths: list[Path]) -> Iterator[tuple[str, str]]:
    for path in paths:
        for name in _NAME.findall(path.read_text()):
            yield str(path.relative_to(_ROOT)), name


@pytest.mark.parametrize("paths", [_TERRAFORM, _MANIFESTS], ids=["terraform", "manifests"])
def test_every_variable_that_is_set_is_one_that_the_code_reads(paths: list[Path]) -> None:
    if not paths:
        pytest.skip("NOT TESTED: there are no manifests")
    known = _known() | _WORDS | _CHAIN
    unknown = [(where, name) for where, name in _names(paths) if name not in known]
    assert unknown == []


def test_every_value_that_is_written_out_reads() -> None:
    found = [pair for path in _TERRAFORM for pair in _LITERAL.findall(path.read_text())]
    assert len(found) > 10
    for name, value in found:
        read({name: value})


def test_a_misspelt_variable_would_be_found() -> None:
    with pytest.raises(InvalidError, match="FIRN_TASKS_MAX"):
        read({"FIRN_TASK_MAX": "1"})


@pytest.mark.parametrize("name", sorted(_HANDLERS))
def test_a_handler_is_a_function_of_ours(name: str) -> None:
    handler = _call(name, "function")["handler"]
    assert handler == _HANDLERS[name]
    module, _, function = handler.rpartition(".")
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"NOT TESTED: there is no module {module}")
    assert callable(getattr(importlib.import_module(module), function))


def test_a_worker_is_of_the_size_that_costs_are_estimated_for() -> None:
    assert _defaults("worker")["memory_mb"] == WORKER_MEMORY_MB


def test_a_worker_may_run_for_as_long_as_a_task_may_take() -> None:
    assert _defaults("worker")["timeout_s"] * 1000 == TIMEOUT_MS_MAX


def test_a_statement_ends_before_its_function_does() -> None:
    (values,) = _module("query", "main.tf")["locals"]
    assert values["statement_timeout_ms"] == "${(var.timeout_s - 5) * 1000}"
    assert _defaults("query")["timeout_s"] > 5


def test_nothing_is_given_more_than_its_platform_has() -> None:
    for name in _HANDLERS:
        defaults = _defaults(name)
        assert 128 <= defaults["memory_mb"] <= 10_240
        assert 1 <= defaults["timeout_s"] <= 900
        assert 512 <= defaults["spill_mb"] <= 10_240


def test_one_compactor_runs_at_a_time() -> None:
    assert _call("compactor", "function")["reserved_concurrency"] == 1


def test_an_alarm_sees_two_passes_of_the_compactor_that_fail() -> None:
    """Periods of an alarm are at least as long as passes are apart: two of them that follow each other can fail."""
    assert _call("compactor", "function")["alarm_period_s"] == "${local.alarm_period_s}"
    (values,) = _module("compactor", "main.tf")["locals"]
    assert values["alarm_period_s"] == "${max(60, floor(var.late_after_s / 240) * 60)}"
    period_s = max(60, _defaults("compactor")["late_after_s"] // 240 * 60)
    schedules = [
        re.findall(r'"rate\((\d+) minutes?\)"', path.read_text()) for path in _TERRAFORM if path.suffix == ".tf"
    ]
    minutes = [int(each) for found in schedules for each in found]
    assert len(minutes) >= 2 and max(minutes) * 60 <= period_s


def test_what_expires_is_what_tasks_write_and_workers_write_nowhere_else() -> None:
    assert f'"${{local.folder}}{RESULTS_FOLDER}/"' in (_ROOT / "terraform/modules/bucket/main.tf").read_text()
    assert (
        f'"${{local.bucket}}/${{local.folder}}{RESULTS_FOLDER}/*"'
        in (_ROOT / "terraform/modules/access/main.tf").read_text()
    )


def test_the_log_service_is_started_by_a_command_that_there_is() -> None:
    command = [_plain(each) for each in _call("wal", "task")["command"]]
    assert command[:2] == ["firn", "wal"]
    wal = firn.commands["wal"]
    options = {option for parameter in wal.params for option in parameter.opts}
    assert {each for each in command if each.startswith("--")} <= options
    assert {parameter.name: parameter.default for parameter in wal.params}["port"] == 8081


def test_no_right_is_wider_than_it_must_be() -> None:
    for path in _TERRAFORM:
        for line in path.read_text().splitlines():
            if re.search(r'"[a-z0-9-]+:[A-Za-z]*\*"', line):
                # A bucket's denial is of everything, and a key belongs to its account.
                assert re.search(r'Action += "(s3|kms):\*"', line), f"{path}: {line}"


def test_a_zip_runs_on_the_python_that_it_is_built_for() -> None:
    built = re.search(r'"--python", default="([0-9.]+)"', (_ROOT / "infra/lambda/build.py").read_text())
    assert built is not None
    for module in ("function", "worker"):
        text = (_ROOT / "terraform/modules" / module / "variables.tf").read_text()
        assert f'runtime = optional(string, "python{built[1]}")' in text
