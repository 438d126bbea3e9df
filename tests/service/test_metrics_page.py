"""docs/observability.md, the dashboard and the rules are held to what ``/metrics`` shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from catalog.kv.memory import MemoryKV
from service.log.open import open_logs
from service.settings import LogAccess
from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.stores import Stores
from tests.support.exposed import exposed, registries

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "observability.md").read_text()
INFRA = ROOT / "infra" / "observability"
ROWS = re.findall(r"^\| `([a-z_]+)` \| (\w+) \| ([^|]*) \| ([^|]*) \| (.*) \|$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def shown() -> dict[str, tuple[str, str, tuple[str, ...]]]:
    clock = SystemClock()
    stores = Stores(lambda _root: MemoryBlobs(clock))
    return exposed(registries(open_logs("s3://bucket/lake", LogAccess(), MemoryKV(clock), stores, clock)))


def test_every_metric_stands_in_its_table(shown: dict[str, tuple[str, str, tuple[str, ...]]]) -> None:
    told = {name: (kind, text, tuple(roles.split(", "))) for name, kind, _labels, roles, text in ROWS}
    assert told == shown


def test_units_are_in_the_names(shown: dict[str, tuple[str, str, tuple[str, ...]]]) -> None:
    for name, (kind, text, _roles) in shown.items():
        assert (kind == "counter") == name.endswith("_total"), name
        if kind == "histogram" and "batch" not in name:
            assert name.endswith("_seconds"), name
        assert text.endswith("."), name


def named(expression: str) -> set[str]:
    """The metrics that an expression asks for, as families."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    found = set(re.findall(r"\b(?:firnline|process)_[a-z_]+\b", bare))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


def recorded() -> dict[str, str]:
    groups = yaml.safe_load((INFRA / "rules.yml").read_text())["groups"]
    return {rule["record"]: rule["expr"] for group in groups for rule in group["rules"]}


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((INFRA / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [each for each in json.loads((INFRA / "dashboard.json").read_text())["panels"] if each["type"] != "row"]


def test_rules_alerts_and_panels_ask_for_what_there_is(shown: dict[str, tuple[str, str, tuple[str, ...]]]) -> None:
    asked = [*recorded().values(), *(rule["expr"] for rule in alerts())]
    asked += [target["expr"] for panel in panels() for target in panel["targets"]]
    for expression in asked:
        assert named(expression) <= shown.keys(), expression
        assert set(re.findall(r"\bfirnline:[a-z0-9_:]+", expression)) <= recorded().keys(), expression
        for name in named(expression):
            suffix = re.search(rf"\b{name}_(bucket|sum|count)\b", expression)
            assert bool(suffix) == (shown[name][0] == "histogram"), expression


def test_every_metric_of_ours_is_on_the_dashboard(shown: dict[str, tuple[str, str, tuple[str, ...]]]) -> None:
    on_it = {name for panel in panels() for target in panel["targets"] for name in named(target["expr"])}
    through_rules = {name for expression in recorded().values() for name in named(expression)}
    left_out = {"firnline_log_epoch", "firnline_log_next_sequence", "firnline_log_batch_records",
                "firnline_compaction_segments_swept_total"}  # fmt: skip
    ours = {name for name in shown if name.startswith("firnline_")}
    assert ours - on_it - through_rules == left_out


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    board = json.loads((INFRA / "dashboard.json").read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    assert board["uid"] == "firnline"
    for panel in panels():
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs))


def test_every_alert_has_its_chapter_and_a_severity() -> None:
    for rule in alerts():
        assert f"\n### {rule['alert']}\n" in PAGE, rule["alert"]
        assert rule["annotations"]["runbook"] == f"docs/observability.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "warn")
    assert {rule["alert"] for rule in alerts()} == set(re.findall(r"^### (Firnline\w+)$", PAGE, re.MULTILINE))


def test_every_setting_that_the_page_names_is_one() -> None:
    from firnline.settings import OTEL_VARIABLES, variables

    known = {variable.name for variable, _default in variables().values()} | OTEL_VARIABLES.keys()
    named_there = set(re.findall(r"`((?:FIRN|OTEL)_[A-Z_]+)(?:=[^`]*)?`", PAGE))
    assert named_there <= known
