"""The manifests of Knative as an overlay renders them, and the schema that Knative's own fields are held to.

Nothing on PyPI validates Knative's kinds. `SERVICE` is written by hand from the fields of `serving.knative.dev/v1` that
its reference documents and that we use: it refuses everything else, the containers apart, which are Kubernetes' own and
are validated as a Pod's.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

__all__ = ["OVERLAYS", "POD_MONITOR", "SERVICE", "Manifest", "containers", "kind", "pod_specs", "rendered"]

Manifest = dict[str, Any]
_FOLDER = Path(__file__).parents[2] / "infra" / "knative"
OVERLAYS = (("dev",), ("prod",), ("prod", "telemetry"), ("prod", "metrics"), ("prod", "pod-monitors"))
"""Each with the components that it is rendered with."""

_TEXT = {"type": "string"}
_LABELS = {"type": "object", "additionalProperties": _TEXT}
_SCALE = "^(0|[1-9][0-9]*)$"
_DURATION = "^([0-9]+(ms|s|m|h))+$"


def _closed(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


_SECONDS = {"type": "integer", "minimum": 1, "maximum": 600}
"""600 is the default of max-revision-timeout-seconds in config-defaults; a longer one is refused."""
SERVICE = _closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "serving.knative.dev/v1"},
    kind={"const": "Service"},
    metadata=_closed(("name", "namespace"), name=_TEXT, namespace=_TEXT, labels=_LABELS, annotations=_LABELS),
    spec=_closed(
        ("template",),
        template=_closed(
            ("metadata", "spec"),
            metadata=_closed(
                ("annotations",),
                labels=_LABELS,
                annotations={
                    "type": "object",
                    "properties": {
                        "autoscaling.knative.dev/min-scale": {"type": "string", "pattern": _SCALE},
                        "autoscaling.knative.dev/max-scale": {"type": "string", "pattern": _SCALE},
                        "autoscaling.knative.dev/target": {"type": "string", "pattern": _SCALE},
                        "autoscaling.knative.dev/target-utilization-percentage": {"type": "string", "pattern": _SCALE},
                        "autoscaling.knative.dev/scale-to-zero-pod-retention-period": {
                            "type": "string",
                            "pattern": _DURATION,
                        },
                        "prometheus.io/scrape": {"const": "true"},
                        "prometheus.io/port": {"const": "8080"},
                        "prometheus.io/path": {"const": "/metrics"},
                    },
                    "additionalProperties": False,
                },
            ),
            spec=_closed(
                ("containers", "containerConcurrency", "timeoutSeconds"),
                containerConcurrency={"type": "integer", "minimum": 0, "maximum": 1000},
                timeoutSeconds=_SECONDS,
                responseStartTimeoutSeconds=_SECONDS,
                idleTimeoutSeconds=_SECONDS,
                serviceAccountName=_TEXT,
                automountServiceAccountToken={"type": "boolean"},
                enableServiceLinks={"type": "boolean"},
                containers={"type": "array", "minItems": 1, "maxItems": 1},
                # What is allowed without a feature flag.
                volumes={
                    "type": "array",
                    "items": {
                        "type": "object",
                        "propertyNames": {"enum": ["name", "configMap", "secret", "projected", "emptyDir"]},
                    },
                },
            ),
        ),
    ),
)


_ENDPOINT = _closed(
    ("port", "path", "interval"),
    port=_TEXT,
    path=_TEXT,
    interval={"type": "string", "pattern": _DURATION},
    authorization=_closed(("credentials",), credentials=_closed(("name", "key"), name=_TEXT, key=_TEXT)),
    relabelings={
        "type": "array",
        "items": _closed(
            ("targetLabel", "replacement"), action={"const": "replace"}, targetLabel=_TEXT, replacement=_TEXT
        ),
    },
)
POD_MONITOR = _closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "monitoring.coreos.com/v1"},
    kind={"const": "PodMonitor"},
    metadata=_closed(("name", "namespace"), name=_TEXT, namespace=_TEXT, labels=_LABELS),
    spec=_closed(
        ("selector", "podMetricsEndpoints"),
        selector=_closed(("matchLabels",), matchLabels=_LABELS),
        podMetricsEndpoints={"type": "array", "items": _ENDPOINT, "minItems": 1, "maxItems": 1},
    ),
)
"""The Prometheus Operator's kind, by hand too, from its reference."""


def rendered(overlay: str, *components: str) -> list[Manifest]:
    """Return what an overlay renders with these components. Skips the test where nothing renders it."""
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize"]
    elif shutil.which("kustomize"):
        command = ["kustomize", "build"]
    else:
        pytest.skip("NOT TESTED: neither kubectl nor kustomize is installed")
    with tempfile.TemporaryDirectory() as copied:
        folder = Path(shutil.copytree(_FOLDER, Path(copied) / "knative")) / "overlays" / overlay
        with (folder / "kustomization.yaml").open("a") as file:
            file.write("".join(["\ncomponents:\n"] * bool(components)))
            file.write("".join(f"  - ../../components/{each}\n" for each in components))
        done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def is_knative(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest is of Knative's kinds."""
    return str(manifest["apiVersion"]).startswith("serving.knative.dev/")


def kind(manifests: list[Manifest], wanted: str, *, knative: bool = False) -> dict[str, Manifest]:
    """Return the manifests of a kind by their names."""
    return {
        each["metadata"]["name"]: each for each in manifests if each["kind"] == wanted and is_knative(each) == knative
    }


def pod_specs(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    """Yield name, labels and PodSpec of everything that makes pods."""
    for manifest in manifests:
        template = manifest.get("spec", {})
        template = template.get("jobTemplate", {}).get("spec", template).get("template")
        if template is not None:
            yield manifest["metadata"]["name"], template["metadata"].get("labels", {}), template["spec"]


def containers(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Return the containers of our image by name."""
    return {
        container["name"]: container
        for _name, _labels, spec in pod_specs(manifests)
        for container in spec["containers"]
        if "firnline" in container["image"]
    }
