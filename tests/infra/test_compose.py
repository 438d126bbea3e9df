"""The compose file: valid by the specification's own schema, pinned, on the loopback, true to what the code reads."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from firnline import settings
from firnline.cli.app import firn

_ROOT = Path(__file__).parents[2]
_FILE = _ROOT / "localstack" / "compose.yaml"
_SCHEMAS = "check-jsonschema==0.39.0"
_PINNED = re.compile(r":v?\d+\.\d+\.\d+$")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load(_FILE.read_text())["services"])


@pytest.mark.e2e
def test_it_is_valid() -> None:
    """By ``docker compose`` where there is one, else by the schema that a tool from PyPI carries."""
    try:
        docker = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    except OSError:
        docker = False
    uvx = _ROOT / ".tools" / "bin" / "uvx"
    if docker:
        command = ["docker", "compose", "--file", str(_FILE), "config", "--quiet"]
    elif uvx.exists():
        tool = ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(_FILE)]
        command = [str(uvx), "--quiet", "--from", _SCHEMAS, *tool]
    else:
        pytest.skip("NOT TESTED: there is neither docker compose nor .tools/bin/uvx (make setup)")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_images_of_others_are_pinned_and_every_server_says_how_it_is(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if not service["image"].startswith("${FIRNLINE_IMAGE"):
            assert _PINNED.search(service["image"]), name
        elif "read_only" in service:
            assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        if service.get("restart") == "unless-stopped":
            assert "healthcheck" in service, name


def test_nothing_listens_beyond_the_loopback(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_commands_and_variables_are_firns_own(services: dict[str, Any]) -> None:
    known = {variable.name for variable, _default in settings.variables().values()} | set(settings.AWS_VARIABLES)
    ours = {name: each for name, each in services.items() if each["image"].startswith("${FIRNLINE_IMAGE")}
    assert set(ours) == {"bucket", "wal", "worker", "token", "first-token", "endpoint"}
    for name, service in ours.items():
        assert set(service["environment"]) <= known, name
        if "entrypoint" in service:
            continue
        program, *arguments = service["command"]
        assert program == "firn"
        command: click.Command = firn
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), arguments.pop(0))
            assert found is not None, service["command"]
            command = found
        command.make_parser(click.Context(command)).parse_args(arguments)
