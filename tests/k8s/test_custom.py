"""Custom resources against the schemas that packages bring; a field that a schema doesn't know is found too.

Gateway API has no such package: its objects are held against what its specification asks for, and against our own.
"""

from importlib import import_module
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from pydantic import BaseModel

from tests.k8s.cluster import Object, composed, named, of_kind, pods

CASE = ("prometheus-operator", "keda", "ingress", "training")


def schemas() -> dict[str, type[BaseModel]]:
    from cloudcoil.models.keda.v1alpha1 import ScaledObject
    from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule

    trainer = import_module("kubeflow_trainer_api.models")  # it brings no types

    return {
        "ScaledObject": ScaledObject,
        "PodMonitor": PodMonitor,
        "PrometheusRule": PrometheusRule,
        "TrainJob": trainer.TrainerV1alpha1TrainJob,
        "TrainingRuntime": trainer.TrainerV1alpha1TrainingRuntime,
    }


def unknown(given: Any, read: Any, path: str = "") -> list[str]:
    """Paths of what was given and isn't in what a schema's model read of it."""
    if isinstance(given, dict):
        if not isinstance(read, dict):
            return [path]
        return [p for key, value in given.items() for p in unknown(value, read.get(key, _ABSENT), f"{path}.{key}")]
    if isinstance(given, list):
        if not isinstance(read, list) or len(read) != len(given):
            return [path]
        return [p for n, value in enumerate(given) for p in unknown(value, read[n], f"{path}[{n}]")]
    return [path] if read is _ABSENT else []


_ABSENT = object()


@pytest.fixture(scope="module")
def models() -> dict[str, type[BaseModel]]:
    return schemas()


def test_custom_resources_fit_their_schemas(models: dict[str, type[BaseModel]]) -> None:
    found = of_kind(composed(CASE), *models)
    assert {each["kind"] for each in found} == set(models)

    for each in found:
        given = without_quantities(each) if each["kind"] == "TrainingRuntime" else each
        read = models[each["kind"]].model_validate(given).model_dump(by_alias=True, exclude_unset=True, mode="json")
        assert unknown(given, read) == [], each["kind"]


def without_quantities(node: Any) -> Any:
    """Kubeflow's models take no quantity (`16Gi`) as Kubernetes writes it; those are held by the test below."""
    if isinstance(node, dict):
        return {key: without_quantities(value) for key, value in node.items() if key not in ("resources", "sizeLimit")}
    return [without_quantities(value) for value in node] if isinstance(node, list) else node


def test_the_pods_of_a_training_runtime_are_valid() -> None:
    (runtime,) = of_kind(composed(CASE), "TrainingRuntime")
    ((_, pod),) = pods((runtime,))

    template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "any"}, "template": pod}
    kubernetes_validate.validate(template, "1.35", strict=True)


def test_a_wrong_field_would_be_seen(models: dict[str, type[BaseModel]]) -> None:
    each = dict(of_kind(composed(CASE), "ScaledObject")[0])
    each["spec"] = each["spec"] | {"pollingIntervall": 5}

    read = models["ScaledObject"].model_validate(each).model_dump(by_alias=True, exclude_unset=True, mode="json")
    assert unknown(each, read) == [".spec.pollingIntervall"]


def test_scaled_objects_name_deployments() -> None:
    objects = composed(("keda",))
    for each in of_kind(objects, "ScaledObject"):
        assert named(objects, "Deployment", each["spec"]["scaleTargetRef"]["name"])


@pytest.mark.parametrize(
    ("method", "path", "clients"),
    [
        ("GET", "/v1/models", True),
        ("GET", "/v1/models/m", True),
        ("POST", "/v1/models/m/predict", True),
        ("POST", "/v1/models/m/versions/1/predict", True),
        ("POST", "/v1/feedback", True),
        ("POST", "/v2/models/m/infer", True),
        ("GET", "/v2/health/ready", True),
        ("GET", "/docs/models/m", True),
        ("GET", "/openapi.json", True),
        ("GET", "/v1/examples/m", False),
        ("GET", "/v1/examples/m/versions/1", False),
        ("GET", "/v1/routes", False),
        ("GET", "/v1/routes/r/disagreements", False),
        ("GET", "/health/live", False),
        ("GET", "/metrics", False),
    ],
)
def test_only_what_clients_ask_comes_in(method: str, path: str, clients: bool) -> None:
    (route,) = of_kind(composed(("ingress",)), "HTTPRoute")
    matches = [each for rule in route["spec"]["rules"] for each in rule["matches"]]

    def fits(each: Object) -> bool:
        kind, value = each["path"]["type"], each["path"]["value"]
        below = kind == "PathPrefix" and path.startswith(f"{value}/")
        return each.get("method", method) == method and (path == value or below)

    assert any(map(fits, matches)) is clients


def test_routes_belong_to_a_listener_and_lead_to_a_service() -> None:
    objects = composed(("ingress",))
    (gateway,) = of_kind(objects, "Gateway")
    listeners: dict[str, Object] = {each["name"]: each for each in gateway["spec"]["listeners"]}

    for each in listeners.values():
        assert (each["protocol"], each["tls"]["mode"]) == ("HTTPS", "Terminate")
        assert each["tls"]["certificateRefs"]
    for route in of_kind(objects, "HTTPRoute", "GRPCRoute"):
        (parent,) = route["spec"]["parentRefs"]
        listener = listeners[parent["sectionName"]]
        assert parent["name"] == gateway["metadata"]["name"]
        assert route["spec"]["hostnames"] == [listener["hostname"]]
        assert listener["allowedRoutes"]["kinds"] == [{"kind": route["kind"]}]
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                ports = named(objects, "Service", backend["name"])["spec"]["ports"]
                assert backend["port"] in {port["port"] for port in ports}
