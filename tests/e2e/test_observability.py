"""Rules through promtool, and a real Prometheus that scrapes real processes."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.firn import environment, program
from tests.support.moto import free_port

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra" / "observability"
PAGE = (ROOT / "docs" / "observability.md").read_text()
ROWS = re.findall(r"^\| `([a-z_]+)` \| (\w+) \| ([^|]*) \| ([^|]*) \| (.*) \|$", PAGE, re.MULTILINE)
WITHIN_S = 60.0
SECRET = "of a server and a worker on this machine"


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"NOT TESTED: there is no {name}; install Debian's package prometheus")
    return found


def ran(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_rules_and_the_samples(tmp_path: Path) -> None:
    promtool = tool("promtool")
    ran(promtool, "check", "rules", str(INFRA / "rules.yml"), str(INFRA / "alerts.yml"))
    ran(promtool, "check", "config", str(INFRA / "prometheus.yml"))
    # Debian's promtool is built without Kubernetes: all but the places is checked.
    sample = yaml.safe_load((INFRA / "prometheus-kubernetes.yml").read_text())
    for job in sample["scrape_configs"]:
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
        job["static_configs"] = [{"targets": ["127.0.0.1:1"]}]
    sample["rule_files"] = [str(INFRA / each) for each in sample["rule_files"]]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(sample))
    ran(promtool, "check", "config", str(tmp_path / "prometheus.yml"))


def test_alerts_fire_when_they_should_and_only_then() -> None:
    ran(tool("promtool"), "test", "rules", str(INFRA / "rules_test.yml"))


@contextmanager
def running(*arguments: str, **variables: str) -> Iterator[str]:
    """Run a program that says where it listens; yield host and port."""
    process = subprocess.Popen(
        [program(), *arguments], env=environment(**variables), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on "), line
        yield line.split("//")[-1].strip()
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The log, a worker and a server on one lake, after some work; job → host and port."""
    lake = ["--lake", str(tmp_path_factory.mktemp("observed") / "lake"), "--port"]
    with ExitStack() as stack:
        worker = stack.enter_context(running("worker", *lake, "0", FIRN_TASK_SECRET=SECRET))
        wal = stack.enter_context(running("wal", *lake, "0"))
        serve = stack.enter_context(
            running("serve", *lake, "0", FIRN_TASK_SECRET=SECRET, FIRN_FUNCTIONS=f"http://{worker}",
                    FIRN_COMPACT_INTERVAL_MS="500")
        )  # fmt: skip
        client = stack.enter_context(httpx.Client(base_url=f"http://{serve}", timeout=60, trust_env=False))
        work(client)
        yield {"firnline-serve": serve, "firnline-wal": wal, "firnline-worker": worker}


def work(client: httpx.Client) -> None:
    def sql(text: str, **members: Any) -> httpx.Response:
        return client.post("/v1/sql", json={"sql": text, **members})

    sql("CREATE TABLE t (id BIGINT, n BIGINT) USING delta").raise_for_status()
    client.post("/v1/tables/default.t/rows", json=[{"id": n, "n": n % 7} for n in range(500)]).raise_for_status()
    sql("OPTIMIZE t").raise_for_status()
    sql("CREATE INDEX by_id ON t (id)").raise_for_status()
    sql("SELECT n, count(*) FROM t GROUP BY n", functions="fan-out").raise_for_status()
    sql("SELECT * FROM t WHERE id = 7", functions="inline").raise_for_status()
    assert sql("SELECT nothing FROM t").status_code == 400


def families(address: str) -> dict[str, Any]:
    text = httpx.get(f"http://{address}/metrics", trust_env=False).text
    return {
        each.name + ("_total" if each.type == "counter" else ""): each for each in text_string_to_metric_families(text)
    }


def test_each_process_shows_what_the_page_says_with_those_labels(deployment: dict[str, str]) -> None:
    labels = {name: set(re.findall(r"`(\w+)`", text)) for name, _kind, text, _roles, _what in ROWS}
    for job, address in deployment.items():
        found = families(address)
        role = job.removeprefix("firnline-")
        assert found.keys() == {name for name, _kind, _labels, roles, _what in ROWS if role in roles.split(", ")}
        for name, family in found.items():
            for sample in family.samples:
                assert sample.labels.keys() - {"le"} == labels[name], (name, sample)


def value(found: dict[str, Any], name: str, **labels: str) -> float:
    samples = (each for each in found[name].samples if not each.name.endswith(("_bucket", "_sum")))
    return float(sum(each.value for each in samples if labels.items() <= each.labels.items()))


def test_work_shows_in_the_numbers(deployment: dict[str, str]) -> None:
    serve, wal, worker = (families(deployment[f"firnline-{role}"]) for role in ("serve", "wal", "worker"))
    assert value(serve, "firnline_statements_total", outcome="succeeded") >= 5
    assert value(serve, "firnline_statements_total", outcome="SqlError") == 1
    n_tasks = value(serve, "firnline_tasks_total", kind="aggregate", outcome="succeeded", attempt="1")
    assert n_tasks == value(worker, "firnline_worker_tasks_total", kind="aggregate", outcome="succeeded") > 0
    assert value(serve, "firnline_lookups_total") >= 1
    assert value(serve, "firnline_index_files_total", covered="yes") >= 1
    assert value(serve, "firnline_store_requests_total", store="file", outcome="succeeded") > 0
    assert value(serve, "firnline_catalog_seconds") > 0
    assert value(serve, "firnline_cache_misses_total", cache="snapshots") > 0
    assert value(wal, "firnline_log_appends_total", outcome="acknowledged") == 1
    assert value(wal, "firnline_log_owned") == 1
    for each in (serve, wal, worker):
        assert value(each, "process_resident_memory_bytes") > 10 << 20
        assert value(each, "firnline_build_info") == 1


def test_a_real_prometheus_scrapes_all_and_evaluates_the_rules(deployment: dict[str, str], tmp_path: Path) -> None:
    prometheus, port = tool("prometheus"), free_port()
    config = yaml.safe_load((INFRA / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    for name in config["rule_files"]:
        rules = yaml.safe_load((INFRA / name).read_text())
        for group in rules["groups"]:
            group.pop("interval", None)  # half a minute is long for a test
        (tmp_path / name).write_text(yaml.safe_dump(rules))
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [deployment[job["job_name"]]]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [prometheus, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
               f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1/", trust_env=False, timeout=10) as client:
            # A rate wants two samples, so a rule over rates tells that scraping goes on.
            found = eventually(client, "firnline:statements:rate5m")
            assert {each["metric"]["outcome"] for each in found} >= {"succeeded", "CorruptError"}
            assert {each["metric"]["job"] for each in eventually(client, "up == 1", 3)} == set(deployment)
            firing = client.get("alerts").json()["data"]["alerts"]
            assert not [each["labels"]["alertname"] for each in firing if each["state"] == "firing"]
            groups = client.get("rules").json()["data"]["groups"]
            assert not [rule for group in groups for rule in group["rules"] if rule["health"] == "err"]
    finally:
        process.terminate()
        process.wait(30)


def eventually(client: httpx.Client, query: str, n: int = 1) -> list[dict[str, Any]]:
    """Return the answer once it has ``n`` samples."""
    limit_s = time.monotonic() + WITHIN_S
    while True:
        with suppress(httpx.TransportError):
            found = client.get("query", params={"query": query}).json().get("data", {}).get("result", [])
            if len(found) >= n:
                return list(found)
        assert time.monotonic() < limit_s, query
        time.sleep(0.2)
