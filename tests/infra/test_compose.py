"""The compose file: valid by the specification's own schema, pinned, on the loopback, true to what the code reads."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest
import yaml

from firnline import settings
from firnline.cli.app import firn

_ROOT = Path(__file__).parents[2]
_FILE = _ROOT / "localstack" / "compose.yaml"
_SCHEMAS = "check-jsonschema==0.39.0"
_PINNED = re.compile(r":v?\d+\.\d+\.\d+$")
_DEFAULT = re.compile(r"\$\{[A-Z0-9_]+:-([^}]*)\}")


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


def test_every_address_is_that_of_a_service_which_listens_there(services: dict[str, Any]) -> None:
    """What the code would read is read by it, with the defaults that the file itself gives."""
    listens = {name: _port_of(name, each) for name, each in services.items()}
    for name, service in services.items():
        if not service["image"].startswith("${FIRNLINE_IMAGE"):
            continue
        told = {variable: _DEFAULT.sub(r"\1", value) for variable, value in service["environment"].items()}
        addresses = [url for value in told.values() if (url := urlsplit(value)).port]
        assert addresses, name
        for url in addresses:
            assert (url.hostname, url.port) == (url.hostname, listens.get(url.hostname or "")), (name, url)
            assert url.hostname in {name, *_waited_for(services, name)}, f"{name} does not wait for {url.hostname}"
        if "entrypoint" not in service:
            settings.read(told)
        for url in re.findall(r"http://127\.0\.0\.1:(\d+)", json.dumps(service.get("healthcheck", {}))):
            assert int(url) == listens[name], name
    [(_loopback, _outside, inside)] = [port.rsplit(":", 2) for port in services["endpoint"]["ports"]]
    assert int(inside) == listens["endpoint"]


def test_the_endpoint_and_its_workers_agree(services: dict[str, Any]) -> None:
    endpoint, worker = services["endpoint"], services["worker"]
    assert endpoint["environment"]["FIRN_TASK_SECRET"] == worker["environment"]["FIRN_TASK_SECRET"]
    assert endpoint["environment"]["FIRN_FUNCTIONS_CONCURRENCY"] == _option(worker, "--concurrency")
    assert endpoint["environment"]["FIRN_CATALOG"] == services["wal"]["environment"]["FIRN_CATALOG"]
    assert "FIRN_CATALOG" not in worker["environment"], "workers reach the lake, and no catalog"


def _option(service: dict[str, Any], name: str) -> str:
    found: list[str] = service["command"]
    return found[found.index(name) + 1]


def _port_of(name: str, service: dict[str, Any]) -> int:
    if name == "etcd":
        [url] = [each.partition("=")[2] for each in service["command"] if each.startswith("--listen-client-urls=")]
        return urlsplit(url).port or 0
    if not service["image"].startswith("${FIRNLINE_IMAGE"):
        [port] = set(re.findall(r"http://127\.0\.0\.1:(\d+)", json.dumps(service["healthcheck"])))
        return int(port)
    return int(_option(service, "--port")) if "--port" in service.get("command", ()) else 0


def _waited_for(services: dict[str, Any], name: str) -> set[str]:
    """Return the services that are there before one is started."""
    found = set(services[name].get("depends_on", ()))
    return found.union(*(_waited_for(services, each) for each in found))
