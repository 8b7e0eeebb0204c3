"""What the pages tell people to type names objects, containers and ports that the manifests have."""

import re
from pathlib import Path

import pytest
import yaml

from tests.k8s.cluster import K8S, OVERLAYS, ROOT, Object, cases, containers, everything, of_kind, pods

PAGES = (ROOT / "docs/kubernetes.md", K8S / "README.md", *sorted(K8S.glob("components/*/README.md")))
KINDS = {
    "deployment": "Deployment",
    "statefulset": "StatefulSet",
    "daemonset": "DaemonSet",
    "service": "Service",
    "cronjob": "CronJob",
    "trainjob": "TrainJob",
    "resourcequota": "ResourceQuota",
    "persistentvolumeclaim": "PersistentVolumeClaim",
    "configmap": "ConfigMap",
}
COMMAND = re.compile(r"kubectl (?:[^`\n|#]|\\\n)+")
NAMED = re.compile(rf"\b({'|'.join(KINDS)})[/ ]([a-z][a-z0-9-]*)")
FORWARD = re.compile(r"port-forward (\w+)/([a-z-]+) (\d+)")
CONTAINER = re.compile(r"logs \S+ -c ([a-z]+)")
LABEL = re.compile(r"-l app\.kubernetes\.io/name=([a-z-]+)")


def objects() -> list[Object]:
    return [each for combination in everything() for each in combination]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_name_what_is_there(page: Path) -> None:
    every = objects()
    names = {(each["kind"], each["metadata"]["name"]) for each in every}
    templates = [pod for _, pod in pods(tuple(every))]
    labelled = {pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in templates}
    of_pods = {each["name"] for pod in templates for each in containers(pod)}
    for command in COMMAND.findall(page.read_text(encoding="utf-8")):
        for kind, name in NAMED.findall(command):
            assert (KINDS[kind], name) in names, command
        for kind, name, port in FORWARD.findall(command):
            assert int(port) in _ports(every, KINDS[kind], name), command
        for container in CONTAINER.findall(command):
            assert container in of_pods, command
        for name in LABEL.findall(command):
            assert name in labelled, command


def _ports(every: list[Object], kind: str, name: str) -> set[int]:
    named = [each for each in of_kind(tuple(every), kind) if each["metadata"]["name"] == name]
    if kind == "Service":
        return {port["port"] for each in named for port in each["spec"]["ports"]}
    made = [each for _, pod in pods(tuple(named)) for each in containers(pod)]
    return {port["containerPort"] for each in made for port in each.get("ports", [])}


def test_there_are_commands_to_hold_against_the_manifests() -> None:
    found = [command for page in PAGES for command in COMMAND.findall(page.read_text(encoding="utf-8"))]

    assert sum(bool(NAMED.search(command)) for command in found) > 15
    assert sum(bool(FORWARD.search(command)) for command in found) > 5
    assert sum(bool(CONTAINER.search(command)) for command in found) > 2


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_page_says_what_an_overlay_is_made_of(name: str) -> None:
    kustomization = yaml.safe_load((K8S / "overlays" / name / "kustomization.yaml").read_text())
    row = next(line for line in (K8S / "README.md").read_text().splitlines() if f"(overlays/{name})" in line)

    assert re.findall(r"`([a-z-]+)`", row) == [Path(path).name for path in kustomization["components"]]


def test_the_page_counts_the_combinations_that_are_built() -> None:
    for page in (ROOT / "docs/kubernetes.md", K8S / "README.md"):
        assert f"{len(cases())} combinations" in page.read_text(encoding="utf-8")
