"""The pages on settings, the command line and Python, held to the code."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

import firnline
from firnline import dbapi
from firnline.cli.app import firn
from firnline.cli.meta import COMMANDS
from firnline.settings import AWS_VARIABLES, OTEL_VARIABLES, variables
from storage.errors import STATUS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = {name: (DOCS / f"{name}.md").read_text() for name in ("settings", "cli", "python", "glossary")}


def test_every_setting_stands_in_its_table_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_0-9]+)` \| (.*) \|$", PAGE["settings"], re.MULTILINE))
    expected = {variable.name: f"{_default(default)} | {variable.doc}" for variable, default in variables().values()}
    expected |= AWS_VARIABLES | OTEL_VARIABLES
    assert rows == expected


def _default(value: object) -> str:
    if value in (None, "", ()):
        return ""
    return f"`{int(value) if isinstance(value, bool) else value}`"


@pytest.mark.parametrize(("name", "command"), sorted(firn.commands.items()))
def test_every_command_and_option_stands_in_the_page(name: str, command: click.Command) -> None:
    found = [(f"firn {name}", command)]
    if isinstance(command, click.Group):
        found = [(f"firn {name} {child}", each) for child, each in command.commands.items()]
    for path, each in found:
        assert f"`{path}" in PAGE["cli"]
        for parameter in each.params:
            for option in parameter.opts + parameter.secondary_opts:
                assert option.startswith("--") is False or f"`{option}" in PAGE["cli"], f"{path} {option}"


def test_every_backslash_command_stands_in_the_page() -> None:
    for name, arguments, _doc in COMMANDS:
        assert f"`{name} {arguments}".strip() in PAGE["cli"]


def test_every_public_name_stands_in_the_page() -> None:
    for name in set(firnline.__all__) - {"__version__"}:
        assert f"`{name}" in PAGE["python"], name
    assert f'paramstyle` is "{dbapi.paramstyle}"' in PAGE["python"]
    for cls in STATUS:
        assert getattr(firnline, cls.__name__) is cls


def test_every_extra_stands_in_the_page() -> None:
    extras = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    section = PAGE["settings"].partition("## Extras")[2]
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", section, re.MULTILINE)) == set(extras)


def test_importing_the_package_is_light() -> None:
    heavy = ("pyarrow", "numpy", "httpx", "click", "datafusion")
    code = f"import sys, firnline; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_glossary_is_sorted() -> None:
    terms = re.findall(r"^\| \*\*(.+?)\*\* \|", PAGE["glossary"], re.MULTILINE)
    assert terms == sorted(terms, key=str.lower)
    assert len(terms) > 30
