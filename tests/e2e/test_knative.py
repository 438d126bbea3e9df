"""Knative's manifests: valid, closed, true to what the code reads; every container's command runs as it is written."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate
import pytest
import yaml

from firnline import settings
from functions.exchange import decode_page
from functions.tasks import Task, decode_reply, encode_task
from tests.support.etcd import EtcdServer, etcd_server_or_skip, free_ports
from tests.support.firn import environment, program
from tests.support.knative import (
    OVERLAYS,
    POD_MONITOR,
    SERVICE,
    Manifest,
    containers,
    is_knative,
    kind,
    pod_specs,
    rendered,
)
from tests.support.moto import create_bucket, start_moto
from tests.support.task_plans import stages_of, task_of

_KUBERNETES = "1.34"
_SCALE = "autoscaling.knative.dev/{}-scale"
_SECRET = "a secret of this deployment only"
_SLOW = "SELECT count(*) AS n FROM generate_series(1, 300000000) WHERE value % 7 = 1"
"""A second and a half of work."""
_SLOW_ROWS = 42857143


@pytest.fixture(scope="module", params=OVERLAYS, ids="-with-".join)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return rendered(*request.param)


def test_kubernetes_own_kinds_are_valid(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if manifest["kind"] == "PodMonitor":
            jsonschema.validate(manifest, POD_MONITOR)
        elif not is_knative(manifest):
            assert kubernetes_validate.validate(manifest, _KUBERNETES, strict=True) == _KUBERNETES


def test_knatives_services_are_valid_and_so_are_the_pods_that_they_describe(manifests: list[Manifest]) -> None:
    services = [each for each in manifests if is_knative(each)]
    assert len(services) == 2
    for service in services:
        jsonschema.validate(service, SERVICE)
        spec = copy.deepcopy(service["spec"]["template"]["spec"])
        for own in ("containerConcurrency", "timeoutSeconds", "responseStartTimeoutSeconds"):
            spec.pop(own)
        (container,) = spec["containers"]
        for probe in ("readinessProbe", "livenessProbe"):
            assert "port" not in container[probe]["httpGet"]  # Knative asks the container's only port
            container[probe]["httpGet"]["port"] = container["ports"][0]["containerPort"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}
        kubernetes_validate.validate(pod, _KUBERNETES, strict=True)


def test_a_field_that_is_misspelt_is_found() -> None:
    for service in (each for each in rendered("dev") if is_knative(each)):
        service["spec"]["template"]["spec"]["containerConcurency"] = 1
        with pytest.raises(jsonschema.ValidationError, match="containerConcurency"):
            jsonschema.validate(service, SERVICE)


def test_no_container_is_root_or_writes_elsewhere_than_to_its_volumes(manifests: list[Manifest]) -> None:
    for name, _labels, spec in pod_specs(manifests):
        assert spec["automountServiceAccountToken"] is False, name
        for container in spec["containers"]:
            merged = spec.get("securityContext", {}) | container["securityContext"]
            assert merged["runAsNonRoot"] is True and merged["runAsUser"] == 10001, name
            assert merged["readOnlyRootFilesystem"] is True, name
            assert merged["allowPrivilegeEscalation"] is False, name
            assert merged["capabilities"] == {"drop": ["ALL"]}, name
            assert merged["seccompProfile"] == {"type": "RuntimeDefault"}, name
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert "memory" in container["resources"]["limits"], name
    assert all("/tmp" in {each["mountPath"] for each in own["volumeMounts"]} for own in containers(manifests).values())


def test_the_variables_are_those_that_the_code_reads(manifests: list[Manifest]) -> None:
    known = {variable.name for variable, _default in settings.variables().values()} | set(settings.AWS_VARIABLES)
    known |= set(settings.OTEL_VARIABLES)
    (config,) = kind(manifests, "ConfigMap").values()
    assert set(config["data"]) <= known
    for name, container in containers(manifests).items():
        source, keys = container["envFrom"]
        assert keys == {"secretRef": {"name": "firn-s3", "optional": True}}
        assert source["configMapRef"]["name"] == config["metadata"]["name"], "a changed setting is a new revision"
        assert {each["name"] for each in container.get("env", ())} - {"POD_NAME", "POD_NAMESPACE"} <= known, name
        settings.read(config["data"])


def test_with_telemetry_all_parts_are_told_of_a_collector_and_may_reach_it() -> None:
    before, manifests = rendered("prod"), rendered("prod", "telemetry")
    (plain,), (config,) = (kind(each, "ConfigMap").values() for each in (before, manifests))
    assert not any(name.startswith("OTEL_") for name in plain["data"])
    told = {name: value for name, value in config["data"].items() if name.startswith("OTEL_")}
    assert told.keys() <= set(settings.OTEL_VARIABLES)
    assert settings.read(told).traces
    assert config["data"].items() >= plain["data"].items()
    policy = kind(manifests, "NetworkPolicy")["firn-to-collector"]
    ((port,),) = (each["ports"] for each in policy["spec"]["egress"])
    assert f":{port['port']}" in told["OTEL_EXPORTER_OTLP_ENDPOINT"]
    pods = [labels for _name, labels, _spec in pod_specs(manifests)]
    assert {labels["app.kubernetes.io/name"] for labels in pods if _selects(policy["spec"]["podSelector"], labels)} >= {
        "firn-endpoint", "firn-worker", "firn-wal", "firn-compact",
    }  # fmt: skip


def test_with_metrics_every_pod_that_serves_says_where_it_is_scraped_and_prometheus_may_do_so() -> None:
    manifests = rendered("prod", "metrics")
    policy = kind(manifests, "NetworkPolicy")["firn-from-prometheus"]["spec"]
    open_ports = {str(port["port"]) for rule in policy["ingress"] for port in rule["ports"]}
    serving = {**kind(manifests, "Service", knative=True), **kind(manifests, "StatefulSet")}
    assert serving.keys() == {"firn", "firn-worker", "firn-wal"}
    for name, manifest in serving.items():
        template = manifest["spec"]["template"]
        told = template["metadata"]["annotations"]
        (container,) = template["spec"]["containers"]
        assert (told["prometheus.io/scrape"], told["prometheus.io/path"]) == ("true", "/metrics"), name
        assert told["prometheus.io/port"] == str(container["ports"][0]["containerPort"]), name
        assert told["prometheus.io/port"] in open_ports, name
        assert _selects(policy["podSelector"], template["metadata"]["labels"]), name
    assert not any("prometheus.io" in json.dumps(each) for each in rendered("prod"))


def test_with_pod_monitors_each_has_its_pods_a_port_of_theirs_and_a_job_that_alerts_know() -> None:
    manifests = rendered("prod", "pod-monitors")
    pods = {labels["app.kubernetes.io/name"]: spec for _name, labels, spec in pod_specs(manifests)}
    jobs = set()
    for monitor in kind(manifests, "PodMonitor").values():
        pod = pods[monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"]]
        (asked,) = monitor["spec"]["podMetricsEndpoints"]
        # Knative renames the port of the one container that it is given.
        ports = {each["name"] for container in pod["containers"] for each in container["ports"]}
        assert asked["port"] in {"user-port" if each == "http1" else each for each in ports}
        (job,) = [each["replacement"] for each in asked["relabelings"] if each["targetLabel"] == "job"]
        assert ("authorization" in asked) == (job == "firnline-serve"), "the others ask for no token"
        jobs.add(job)
    sample = yaml.safe_load((Path(__file__).parents[2] / "infra/observability/prometheus-kubernetes.yml").read_text())
    assert jobs == {each["job_name"] for each in sample["scrape_configs"]}


def test_no_secret_is_written_down(manifests: list[Manifest]) -> None:
    assert not kind(manifests, "Secret")
    found = containers(manifests)
    for name in ("endpoint", "worker"):
        (secret,) = [each for each in found[name]["env"] if each["name"] == "FIRN_TASK_SECRET"]
        assert secret["valueFrom"] == {"secretKeyRef": {"name": "firn", "key": "task-secret"}}
    assert not re.search(r"(?i)password|secret_access_key", json.dumps(manifests))


def test_scales_are_bounded_and_the_coordinator_knows_how_many_tasks_the_workers_run(manifests: list[Manifest]) -> None:
    services = kind(manifests, "Service", knative=True)
    worker = services["firn-worker"]["spec"]["template"]
    assert services["firn-worker"]["metadata"]["labels"]["networking.knative.dev/visibility"] == "cluster-local"
    assert worker["metadata"]["annotations"][_SCALE.format("min")] == "0"
    n_pods, n_each = (
        int(worker["metadata"]["annotations"][_SCALE.format("max")]),
        worker["spec"]["containerConcurrency"],
    )
    arguments = worker["spec"]["containers"][0]["args"]
    assert n_each == int(arguments[arguments.index("--concurrency") + 1])
    (config,) = kind(manifests, "ConfigMap").values()
    assert int(config["data"]["FIRN_FUNCTIONS_CONCURRENCY"]) == n_pods * n_each
    namespace = services["firn-worker"]["metadata"]["namespace"]
    assert config["data"]["FIRN_FUNCTIONS"] == f"http://firn-worker.{namespace}.svc.cluster.local"
    assert kind(manifests, "StatefulSet")["firn-wal"]["spec"]["replicas"] == 1


def test_a_statement_has_less_time_than_knative_gives_a_request(manifests: list[Manifest]) -> None:
    from service.statement import Limits

    endpoint = kind(manifests, "Service", knative=True)["firn"]["spec"]["template"]["spec"]
    assert endpoint["timeoutSeconds"] * 1000 > Limits().timeout_ms


def test_disruption_budgets_and_network_policies_mean_pods_that_there_are(manifests: list[Manifest]) -> None:
    pods = [labels for _name, labels, _spec in pod_specs(manifests)]
    for budget in kind(manifests, "PodDisruptionBudget").values():
        assert any(_selects(budget["spec"]["selector"], labels) for labels in pods), budget["metadata"]["name"]
    policies = kind(manifests, "NetworkPolicy")
    for policy in policies.values():
        assert any(_selects(policy["spec"]["podSelector"], labels) for labels in pods), policy["metadata"]["name"]
    for labels in pods:
        closing = [each for each in policies.values() if _selects(each["spec"]["podSelector"], labels)]
        assert any("Ingress" in each["spec"]["policyTypes"] for each in closing), labels


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", ()))


# What a container is started with, on this machine


class Deployment:
    """The parts of the overlay ``dev``, each started by its own command with its own variables."""

    def __init__(self, lake: str, catalog: str, aws: Mapping[str, str]) -> None:
        manifests = rendered("dev")
        (config,) = kind(manifests, "ConfigMap").values()
        self.containers = containers(manifests)
        self._config = dict(config["data"]) | {"FIRN_LAKE": lake, "FIRN_CATALOG": catalog} | dict(aws)
        self.worker_url = ""

    def variables(self, name: str, **more: str) -> dict[str, str]:
        """Return the environment of a container as Kubernetes would make it, with this machine's addresses."""
        values = dict(self._config)
        if self.worker_url:
            values["FIRN_FUNCTIONS"] = self.worker_url
        known = {"POD_NAME": "firn-wal-0", "POD_NAMESPACE": "firn-dev", "FIRN_TASK_SECRET": _SECRET}
        for each in self.containers[name].get("env", ()):
            text = known.get(each["name"]) or re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], each["value"])
            values[each["name"]] = text
        return values | more

    @contextmanager
    def running(self, name: str, *, port: int, **more: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a container's command; it is killed at the end if it still runs."""
        container = self.containers[name]
        command = [*container["command"], *container["args"]]
        env = environment(**self.variables(name, PORT=str(port), **more))
        env["PATH"] = f"{Path(program()).parent}:{env['PATH']}"
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env)
        try:
            _until_ready(process, port, _readiness(container))
            yield process
        finally:
            process.kill()
            process.communicate()


def _readiness(container: Manifest) -> str:
    return str(container["readinessProbe"]["httpGet"]["path"])


def _until_ready(process: subprocess.Popen[bytes], port: int, path: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            assert process.stderr is not None
            pytest.fail(f"ended with {process.returncode}: {process.stderr.read().decode()[-2000:]}")
        try:
            if _call(port, "GET", path)[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    pytest.fail(f"not ready on port {port}")


def _call(port: int, method: str, path: str, body: bytes = b"", token: str = "") -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    """A lake in an S3 API, with its catalog in etcd."""
    with ExitStack() as stack:
        etcd: EtcdServer = stack.enter_context(etcd_server_or_skip())
        endpoint = stack.enter_context(start_moto())
        create_bucket(endpoint, "lake")
        aws = {"AWS_ENDPOINT_URL_S3": endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        yield Deployment("s3://lake/firn", f"etcd://{etcd.endpoint}", aws)


@pytest.fixture(scope="module")
def token(deployment: Deployment) -> str:
    """A token, made as docs/deploy.md says: by `firn` with the log service's variables."""
    done = subprocess.run(
        [program(), "token", "create", "--role", "admin"], env=environment(**deployment.variables("wal")),
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout.strip()


def _sql(port: int, sql: str, token: str, **members: Any) -> dict[str, Any]:
    status, body = _call(port, "POST", "/v1/sql", json.dumps({"sql": sql, **members}).encode(), token)
    assert status == 200, body
    return dict(json.loads(body))


@pytest.mark.e2e
def test_the_endpoint_listens_on_the_port_it_is_given_and_ends_the_statement_that_runs(
    deployment: Deployment, token: str
) -> None:
    (port,) = free_ports(1)
    with deployment.running("endpoint", port=port, FIRN_FUNCTIONS="inline") as process:
        assert _call(port, "GET", "/healthz")[0] == 200
        assert _call(port, "POST", "/v1/sql", b'{"sql": "SELECT 1"}')[0] == 401
        answers: list[dict[str, Any]] = []
        asking = threading.Thread(target=lambda: answers.append(_sql(port, _SLOW, token)))
        asking.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        asking.join(60)
        assert answers[0]["rows"] == [[_SLOW_ROWS]]
        assert process.wait(20) == 0


@pytest.mark.e2e
def test_a_worker_listens_on_the_port_it_is_given_and_ends_the_task_that_runs(
    deployment: Deployment, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    task = task_of(tmp_path, payload=stages_of(tmp_path, _SLOW, 1).stages[0].plan)
    with deployment.running("worker", port=port, FIRN_LAKE=str(tmp_path)) as process:
        assert _call(port, "POST", "/v1/task", encode_task(task, b"somebody else's secret"))[0] == 403
        replies: list[bytes] = []
        message = encode_task(task, _SECRET.encode())
        asking = threading.Thread(target=lambda: replies.append(_call(port, "POST", "/v1/task", message)[1]))
        asking.start()
        _until_running(port)
        process.send_signal(signal.SIGTERM)
        asking.join(60)
        assert _rows(replies[0], task) == [{"n": _SLOW_ROWS}]
        assert process.wait(20) == 0


def _until_running(port: int) -> None:
    deadline = time.monotonic() + 20
    while json.loads(_call(port, "GET", "/readyz")[1])["running"] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _rows(reply: bytes, task: Task) -> list[dict[str, Any]]:
    found = decode_reply(reply, _SECRET.encode(), task)
    assert found.error is None, found.error
    return [row for page in found.pages for batch in decode_page(page, page.data or b"") for row in batch.to_pylist()]


@pytest.mark.e2e
def test_rows_go_through_the_log_are_folded_by_the_job_and_read_through_the_workers(
    deployment: Deployment, token: str, tmp_path: Path
) -> None:
    ports = free_ports(2)
    with ExitStack() as stack:
        # The log's port and folder are the manifest's; this machine's are put in their place.
        wal = deployment.containers["wal"]
        (wal_port,) = free_ports(1)
        at = {"8081": str(wal_port), "/var/lib/firn": str(tmp_path), "0.0.0.0": "127.0.0.1"}
        moved = wal | {"args": [at.get(each, each) for each in wal["args"]]}
        deployment.containers["wal"] = moved
        stack.callback(deployment.containers.__setitem__, "wal", wal)
        log = stack.enter_context(deployment.running("wal", port=wal_port, FIRN_LOG_URL=f"http://127.0.0.1:{wal_port}"))
        stack.enter_context(deployment.running("worker", port=ports[0]))
        deployment.worker_url = f"http://127.0.0.1:{ports[0]}"
        endpoint = stack.enter_context(deployment.running("endpoint", port=ports[1]))
        _sql(ports[1], "CREATE TABLE t (id BIGINT PRIMARY KEY, city VARCHAR)", token)
        rows = json.dumps([{"id": -1 - number, "city": "c0"} for number in range(300)]).encode()
        assert _call(ports[1], "POST", "/v1/tables/default.t/rows", rows, token)[0] == 200
        _sql(ports[1], "INSERT INTO t SELECT value, 'c' || (value % 3) FROM generate_series(1, 300000)", token)
        _compact(deployment)
        asked = "SELECT city, count(*) AS n FROM t GROUP BY city ORDER BY city"
        answer = _sql(ports[1], asked, token, functions="fan-out")
        assert answer["rows"] == [["c0", 100_300], ["c1", 100_000], ["c2", 100_000]]
        receipt = answer["receipt"]
        assert receipt["tasks"] > 1 and receipt["tail_rows"] == 0, receipt
        assert _runs_tasks(ports[0])
        for process in (endpoint, log):
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


def _runs_tasks(port: int) -> bool:
    """Whether a worker ran tasks, as its metrics say."""
    return bool(re.search(r"(?m)^firnline_worker_tasks_total\S* [1-9]", _call(port, "GET", "/metrics")[1].decode()))


def _compact(deployment: Deployment) -> None:
    job = deployment.containers["compact"]
    env = environment(**deployment.variables("compact"))
    env["PATH"] = f"{Path(program()).parent}{os.pathsep}{env['PATH']}"
    command = [*job["command"], *job["args"]]
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
