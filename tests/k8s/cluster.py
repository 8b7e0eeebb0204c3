"""What the tests of the manifests share: builds of component combinations, and what lies in them."""

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

Object = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
PLACEHOLDER = "sha256:" + 64 * "0"
OVERLAYS = ("cpu", "gpu")

# In the order in which they are applied; `images` is the last.
COMPONENTS = (
    "gpu", "engine-build", "node-cache", "mig", "image-volume", "feedback", "api-keys", "network-policy",
    "prometheus", "prometheus-operator", "hpa", "keda", "ingress", "team", "training", "retrain", "fast-lane",
    "dcgm-exporter", "images",
)  # fmt: skip
BROUGHT_ALONG = ("dashboards",)
NEEDS = {
    "retrain": {"training"}, "node-cache": {"engine-build"}, "mig": {"gpu", "engine-build"}, "dcgm-exporter": {"gpu"},
}  # fmt: skip
# What doesn't go together: two autoscalers, two ways to watch, and training without a volume to publish into.
HALVES = ({"hpa", "prometheus-operator", "training", "retrain"}, {"keda", "prometheus", "image-volume"})

Case = tuple[str, ...]


def cases() -> list[Case]:
    """Each component with what it needs alone, each left out of the rest, and two of everything that goes together."""
    found = {_with_needs({name}) for name in COMPONENTS}
    for half in HALVES:
        rest = set(COMPONENTS) - half
        found.add(_ordered(rest))
        for name in rest:
            found.add(_ordered(rest - {name} - {other for other, needs in NEEDS.items() if name in needs}))
    return sorted(found)


def _with_needs(names: set[str]) -> Case:
    return _ordered(names.union(*(NEEDS.get(name, set()) for name in names)))


def _ordered(names: set[str]) -> Case:
    return tuple(name for name in COMPONENTS if name in names)


def kubectl() -> str:
    """The one that `./setup.sh test` installed because PATH has none that builds these manifests, or that of PATH."""
    found = shutil.which("kubectl", path=f"{ROOT / '.venv-kubectl/bin'}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip("there is no kubectl, which ./setup.sh test installs: the manifests were not built")
    return found


@functools.cache
def built(folder: Path) -> tuple[Object, ...]:
    """The objects of a kustomization."""
    done = subprocess.run(
        [kubectl(), "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


@functools.cache
def composed(case: Case) -> tuple[Object, ...]:
    """The base with components, as an overlay of its own would say it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        document = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "tidegate",
            "resources": [os.path.relpath(K8S / "base", folder)],
            "components": [os.path.relpath(K8S / "components" / part, folder) for part in case],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(document))
        return built(folder)


def overlay(name: str) -> tuple[Object, ...]:
    return built(K8S / "overlays" / name)


def everything() -> Iterator[tuple[Object, ...]]:
    """The overlays, and the two largest combinations."""
    yield from map(overlay, OVERLAYS)
    for half in HALVES:
        yield composed(_ordered(set(COMPONENTS) - half))


def of_kind(objects: tuple[Object, ...], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def named(objects: tuple[Object, ...], kind: str, name: str) -> Object:
    return next(each for each in of_kind(objects, kind) if each["metadata"]["name"] == name)


def pods(objects: tuple[Object, ...]) -> Iterator[tuple[str, Object]]:
    """Every pod template, whatever kind it is in, with the name of its owner."""
    for each in objects:
        for template in _templates(each.get("spec", {})):
            yield f"{each['kind']}/{each['metadata']['name']}", template


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def deployed(objects: tuple[Object, ...], name: str) -> Object:
    """The pod of a Deployment."""
    return dict(named(objects, "Deployment", name)["spec"]["template"]["spec"])


def ports_of(pod: Object) -> dict[str, int]:
    """A pod's ports by name."""
    return {port["name"]: port["containerPort"] for each in containers(pod) for port in each.get("ports", [])}


def labels(pod: Object) -> dict[str, str]:
    return dict(pod["metadata"]["labels"])


def matches(selector: Object, having: dict[str, str]) -> bool:
    """Whether a label selector selects what has these labels."""
    if not selector.get("matchLabels", {}).items() <= having.items():
        return False
    for each in selector.get("matchExpressions", []):
        assert each["operator"] == "In", f"not read by these tests: {each}"
        if having.get(each["key"]) not in each["values"]:
            return False
    return True


def _templates(node: Any) -> Iterator[Object]:
    if isinstance(node, dict):
        if isinstance(node.get("spec"), dict) and "containers" in node["spec"]:
            yield node
        else:
            for value in node.values():
                yield from _templates(value)
    elif isinstance(node, list):
        for value in node:
            yield from _templates(value)
