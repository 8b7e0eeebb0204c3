"""The network policies allow the arrows of the design, and no others: worked out pod by pod, port by port."""

import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tests.k8s.cluster import K8S, Object, composed, everything, labels, matches, of_kind, pods, ports_of

NAMESPACE = "tidegate"
Place = tuple[dict[str, str], dict[str, str]]  # labels of a namespace, labels of a pod
Arrow = tuple[str, str, str]

OWN_NAMESPACE = {"kubernetes.io/metadata.name": NAMESPACE}
OUTSIDE: dict[str, Place] = {
    "anyone": ({"kubernetes.io/metadata.name": "elsewhere"}, {}),
    "client": ({"tidegate/client": "true"}, {}),
    "autoscaler": ({"tidegate/autoscaler": "true"}, {}),
    "viewer": ({"tidegate/viewer": "true"}, {}),
    "cluster's prometheus": ({"tidegate/monitoring": "true"}, {"app.kubernetes.io/name": "prometheus"}),
    "something beside it": ({"tidegate/monitoring": "true"}, {}),
    "dns": ({"kubernetes.io/metadata.name": "kube-system"}, {"k8s-app": "kube-dns"}),
    "alert-webhook": (OWN_NAMESPACE, {"app.kubernetes.io/name": "alert-webhook"}),
    "minio": ({"kubernetes.io/metadata.name": "minio"}, {"app": "minio"}),
    "collector": (
        {"kubernetes.io/metadata.name": "observability"},
        {"app.kubernetes.io/name": "opentelemetry-collector"},
    ),
}
OUTER_PORTS = {
    "cluster's prometheus": {"http": 9090, "other": 9091},
    "dns": {"dns": 53},
    "alert-webhook": {"http": 9095},
    "anyone": {"https": 443, "http": 80},
    "minio": {"s3": 9000, "console": 9001},
    "collector": {"otlp-grpc": 4317, "otlp-http": 4318},
}

ARROWS: set[Arrow] = {
    ("client", "gateway", "http"),
    ("client", "gateway", "grpc"),
    ("gateway", "triton", "grpc"),
    ("gateway", "dns", "dns"),
    ("prometheus", "gateway", "metrics"),
    ("prometheus", "triton", "metrics"),
    ("prometheus", "alertmanager", "http"),
    ("prometheus", "dns", "dns"),
    ("autoscaler", "prometheus", "http"),
    ("grafana", "prometheus", "http"),
    ("grafana", "dns", "dns"),
    ("viewer", "grafana", "http"),
    ("alertmanager", "alert-webhook", "http"),
    ("alertmanager", "dns", "dns"),
}
GATEWAY_AND_TRITON = {arrow for arrow in ARROWS if {arrow[0], arrow[1]} <= {"client", "gateway", "triton", "dns"}}
OPERATOR: set[Arrow] = {("cluster's prometheus", "gateway", "metrics"), ("cluster's prometheus", "triton", "metrics")}
FAST_LANE: set[Arrow] = {
    ("fast-lane", "dns", "dns"),
    ("fast-lane", "cluster's prometheus", "http"),
    ("cluster's prometheus", "fast-lane", "metrics"),
}
OF_THIS_NAMESPACE: set[Arrow] = {("fast-lane", "prometheus", "http"), ("prometheus", "fast-lane", "metrics")}
GPUS: set[Arrow] = {("cluster's prometheus", "dcgm-exporter", "metrics")}
TRAINING: set[Arrow] = {("train", "dns", "dns"), ("train-nodes", "dns", "dns")}


class Network:
    """Who may reach whom, by the policies among `objects`."""

    def __init__(self, objects: tuple[Object, ...]) -> None:
        self.policies = [o["spec"] for o in of_kind(objects, "NetworkPolicy")]
        self.places = {labels(pod)["app.kubernetes.io/name"]: (OWN_NAMESPACE, labels(pod)) for _, pod in pods(objects)}
        self.ports = {labels(pod)["app.kubernetes.io/name"]: ports_of(pod) for _, pod in pods(objects)}

    def arrows(self) -> Iterator[Arrow]:
        places = OUTSIDE | self.places
        for source, of_source in places.items():
            for target, of_target in places.items():
                if source == target or (source in OUTSIDE and target in OUTSIDE):
                    continue
                for name, number in (OUTER_PORTS | self.ports).get(target, {}).items():
                    leaves = source in OUTSIDE or self._allows("Egress", of_source, of_target, name, number)
                    if leaves and (target in OUTSIDE or self._allows("Ingress", of_target, of_source, name, number)):
                        yield source, target, name

    def _allows(self, way: str, subject: Place, other: Place, name: str, number: int) -> bool:
        chosen = [p for p in self.policies if way in p["policyTypes"] and matches(p["podSelector"], subject[1])]
        assert chosen, f"nothing isolates {subject[1]}"
        key, peers = ("ingress", "from") if way == "Ingress" else ("egress", "to")
        return any(
            any(_selects(peer, other) for peer in rule.get(peers, [{}])) and _has_port(rule, name, number)
            for policy in chosen
            for rule in policy.get(key, [])
        )


def _selects(peer: dict[str, Any], place: Place) -> bool:
    namespace = peer.get("namespaceSelector", {"matchLabels": OWN_NAMESPACE} if peer else {})
    return matches(namespace, place[0]) and matches(peer.get("podSelector", {}), place[1])


def _has_port(rule: dict[str, Any], name: str, number: int) -> bool:
    return "ports" not in rule or any(port["port"] in (name, number) for port in rule["ports"])


def test_the_arrows_of_the_design_and_no_others() -> None:
    assert set(Network(composed(("network-policy", "prometheus"))).arrows()) == ARROWS


def test_the_operators_prometheus_reaches_metrics_only() -> None:
    assert set(Network(composed(("network-policy", "prometheus-operator"))).arrows()) == GATEWAY_AND_TRITON | OPERATOR


def test_the_fast_lane_and_prometheus_reach_each_other_only() -> None:
    beside = Network(composed(("network-policy", "prometheus", "fast-lane")))
    operators = Network(composed(("network-policy", "prometheus-operator", "fast-lane")))

    assert set(beside.arrows()) == ARROWS | FAST_LANE | OF_THIS_NAMESPACE
    assert set(operators.arrows()) == GATEWAY_AND_TRITON | OPERATOR | FAST_LANE


def test_what_gpus_report_is_read_by_prometheus_only_and_reaches_nothing() -> None:
    beside = Network(composed(("gpu", "network-policy", "prometheus", "dcgm-exporter")))
    operators = Network(composed(("gpu", "network-policy", "prometheus-operator", "dcgm-exporter")))

    assert set(beside.arrows()) == ARROWS | GPUS | {("prometheus", "dcgm-exporter", "metrics")}
    assert set(operators.arrows()) == GATEWAY_AND_TRITON | OPERATOR | GPUS


def test_training_reaches_its_like_only() -> None:
    arrows = set(Network(composed(("network-policy", "prometheus", "training"))).arrows())

    assert arrows == ARROWS | TRAINING


def test_retraining_hears_alertmanager_and_asks_the_api_server() -> None:
    arrows = set(Network(composed(("network-policy", "prometheus", "training", "retrain"))).arrows())

    assert arrows == ARROWS | TRAINING | {("alertmanager", "retrain", "http"), ("retrain", "anyone", "https")}


def test_jobs_that_deliver_reach_what_lies_outside_on_443_only() -> None:
    network = Network(composed(("network-policy",)))
    network.places = {"sync": (OWN_NAMESPACE, {"app.kubernetes.io/component": "delivery"})}

    assert set(network.arrows()) == {("sync", "anyone", "https"), ("sync", "dns", "dns")}


def test_the_policies_that_the_page_shows_let_out_what_it_says_and_nothing_else() -> None:
    text = (K8S / "components/network-policy/README.md").read_text(encoding="utf-8")
    shown = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S)]
    objects = composed(("network-policy",))
    network = Network((*objects, *shown))
    network.places["sync"] = (OWN_NAMESPACE, {"app.kubernetes.io/component": "delivery"})

    for each in shown:
        kubernetes_validate.validate(each, "1.35", strict=True)
    assert {each["metadata"]["name"] for each in shown} == {"object-store", "trace-collector"}
    assert {each["metadata"]["name"] for each in of_kind(objects, "NetworkPolicy")}.isdisjoint(
        each["metadata"]["name"] for each in shown
    )
    assert set(network.arrows()) == GATEWAY_AND_TRITON | {
        ("sync", "anyone", "https"),
        ("sync", "dns", "dns"),
        ("sync", "minio", "s3"),
        ("gateway", "collector", "otlp-http"),
    }


@pytest.mark.parametrize("way", ["Ingress", "Egress"])
def test_whatever_runs_here_is_isolated(way: str) -> None:
    for objects in everything():
        assert any(
            o["spec"]["podSelector"] == {} and way in o["spec"]["policyTypes"]
            for o in of_kind(objects, "NetworkPolicy")
        )
