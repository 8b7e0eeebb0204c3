"""Every overlay and combination builds, and every object is valid for three Kubernetes versions, strictly."""

import json
import os
import re
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tests.k8s.cluster import (
    BROUGHT_ALONG,
    COMPONENTS,
    K8S,
    OVERLAYS,
    ROOT,
    Case,
    Object,
    built,
    cases,
    composed,
    everything,
    named,
    of_kind,
    overlay,
    pods,
)

VERSIONS = ("1.33", "1.35", "1.37")
CUSTOM = {
    "monitoring.coreos.com/v1", "keda.sh/v1alpha1", "gateway.networking.k8s.io/v1", "trainer.kubeflow.org/v1alpha1",
}  # fmt: skip

_valid: set[str] = set()


def check(each: Object) -> None:
    """Strictly, once for each distinct object."""
    text = json.dumps(each, sort_keys=True)
    if each["apiVersion"] in CUSTOM or text in _valid:
        return
    for version in VERSIONS:
        kubernetes_validate.validate(each, version, strict=True)
    _valid.add(text)


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_valid(name: str) -> None:
    for each in overlay(name):
        check(each)


@pytest.mark.parametrize("case", cases(), ids="+".join)
def test_a_combination_is_valid(case: Case) -> None:
    objects = composed(case)

    assert len({(o["kind"], o["metadata"]["name"]) for o in objects}) == len(objects)
    for each in objects:
        check(each)


def test_an_overlay_as_the_pages_show_it_keeps_replicas_settings_and_routes(tmp_path: Path) -> None:
    whole = re.search(r"(?:^    .+\n)+", (K8S / "README.md").read_text().partition("in this order:\n\n")[2], re.M)
    part = re.search(
        r"^```yaml\n(configMapGenerator:\n.*?)^```", (ROOT / "docs/kubernetes.md").read_text(), re.M | re.S
    )
    assert whole
    assert part
    overlay = yaml.safe_load(whole[0]) | yaml.safe_load(part[1])
    for key in ("resources", "components"):
        overlay[key] = [os.path.relpath((K8S / "overlays/mine" / path).resolve(), tmp_path) for path in overlay[key]]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    (tmp_path / "routes.yaml").write_text("routes: [{name: tiny, targets: [{model: tiny, version: 1}]}]")

    objects = built(tmp_path)
    configured = {name: data for each in of_kind(objects, "ConfigMap") for name, data in each["data"].items()}
    assert {o["metadata"]["name"]: o["spec"]["replicas"] for o in of_kind(objects, "Deployment")} == {
        "gateway": 2,
        "triton": 2,
    }
    assert named(objects, "ConfigMap", "routes")["data"]["routes.yaml"].startswith("routes: [{name: tiny")
    assert configured["TIDEGATE_MAX_INFLIGHT"] == "1024"
    assert configured["TIDEGATE_ROUTES"] == "/etc/tidegate/routes/routes.yaml"


def test_a_wrong_field_would_be_seen() -> None:
    deployment = json.loads(json.dumps(next(o for o in overlay("cpu") if o["kind"] == "Deployment")))
    deployment["spec"]["template"]["spec"]["containers"][0]["readOnlyRootFileSystem"] = True

    with pytest.raises(kubernetes_validate.ValidationError):
        check(deployment)


def test_the_combinations_hold_every_component() -> None:
    assert sorted(path.name for path in (K8S / "components").iterdir()) == sorted(COMPONENTS + BROUGHT_ALONG)
    assert {name for case in cases() for name in case} == set(COMPONENTS)


@pytest.mark.parametrize("name", [*COMPONENTS, "base"])
def test_every_file_of_a_component_is_used(name: str) -> None:
    folder = K8S / "base" if name == "base" else K8S / "components" / name
    text = (folder / "kustomization.yaml").read_text()
    readme = (folder / "README.md").read_text() if name != "base" else ""

    for path in folder.rglob("*"):
        if path.is_file() and path.name not in ("kustomization.yaml", "README.md"):
            assert str(path.relative_to(folder)) in text + readme, f"{path} is in no kustomization"


@pytest.mark.parametrize("folder", sorted((K8S / "components").iterdir()), ids=lambda path: path.name)
def test_every_component_says_what_it_needs_and_how_to_see_that_it_works(folder: Path) -> None:
    text = (folder / "README.md").read_text()

    for part in ("## Needs", "## See that it works"):
        assert part in text, f"{folder.name}/README.md lacks {part!r}"


def test_everything_lies_in_the_namespace_of_the_overlay() -> None:
    cluster_wide = {"Namespace", "PriorityClass", "StorageClass", "PersistentVolume"}
    for objects in everything():
        for each in objects:
            assert each["kind"] in cluster_wide or each["metadata"]["namespace"] == "tidegate", each["metadata"]


def test_everything_has_the_labels() -> None:
    for objects in everything():
        for each in objects:
            assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "tidegate", each["metadata"]
        for owner, pod in pods(objects):
            assert {"name", "component"} <= {
                key.removeprefix("app.kubernetes.io/") for key in pod["metadata"]["labels"]
            }, owner


def test_the_placeholders_are_in_one_file() -> None:
    """Registries and digests: of images in `images`, and of the models' artefact, which is no container's image."""
    found = {path.relative_to(K8S) for path in K8S.rglob("*.yaml") if "sha256:" in path.read_text()}

    assert found == {Path("components/images/kustomization.yaml"), Path("components/image-volume/volume.yaml")}
    assert yaml.safe_load((K8S / "components/images/kustomization.yaml").read_text())["images"]
