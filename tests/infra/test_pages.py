"""Every page for users: the commands, targets, settings, files, pages and headings that it names are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from firnline import settings
from firnline.cli.app import firn

_ROOT = Path(__file__).parents[2]
_PAGES = sorted(
    [*_ROOT.glob("docs/*.md"), *_ROOT.glob("docs/examples/**/*.md"), _ROOT / "README.md", _ROOT / "terraform/README.md"]
)
_TOPS = ("docs", "infra", "localstack", "terraform", "tests", "benchmarks", "firnline", "service", "functions",
         "catalog", "storage")  # fmt: skip
_PATH = re.compile(rf"(?<![\w/.])((?:{'|'.join(_TOPS)})/[\w./-]*\.(?:py|md|sh|yaml|yml|json|tf|lock))\b")
_FIRN = re.compile(
    r"(?:^|[\s`(])firn ((?:sql|serve|worker|wal|token|compact|check|lookup|import|history|tables|demo)\b[^`\n|;)]*)"
)


def _page_id(path: Path) -> str:
    return str(path.relative_to(_ROOT))


pages = pytest.mark.parametrize("page", _PAGES, ids=_page_id)


@pages
def test_its_settings_are_known(page: Path) -> None:
    known = {variable.name for variable, _default in settings.variables().values()} | {"FIRN_TOKEN", "FIRN_DEBUG"}
    known |= set(settings.AWS_VARIABLES)
    assert set(re.findall(r"\bFIRN_[A-Z_0-9]+[A-Z]\b", page.read_text())) <= known


@pages
def test_its_targets_of_make_are_there(page: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z0-9-]+):", (_ROOT / "Makefile").read_text()))
    assert set(re.findall(r"(?m)(?:^|^\$ |`)make ([a-z][a-z0-9-]*)", page.read_text())) <= targets


@pages
def test_its_files_and_links_are_there(page: Path) -> None:
    text = page.read_text()
    missing = [path for path in _PATH.findall(text) if not (_ROOT / path).exists()]
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _sign, heading = target.partition("#")
        linked = (page.parent / path) if path else page
        if not linked.exists() or (heading and heading not in _headings(linked)):
            missing.append(target)
    assert missing == []


@pages
def test_its_commands_are_firns_own(page: Path) -> None:
    for line in _FIRN.findall(page.read_text()):
        words = _words(line)
        command: click.Command = firn
        while isinstance(command, click.Group) and words:
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, line
            command = found
        known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, line


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a text over several lines
        return line.split()


def _headings(page: Path) -> set[str]:
    """Return the anchors of a page, as GitHub makes them."""
    found = re.findall(r"(?m)^#+ (.*)$", page.read_text())
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in found}
