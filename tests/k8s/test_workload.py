"""Each workload: hardened, bounded, probed on paths that exist, and every reference leads somewhere."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.rest import health_routes
from gateway.setting import Settings
from serving.launcher import Launcher, LaunchSettings
from serving.runtime import Runtime
from tests.k8s.cluster import (
    K8S,
    PLACEHOLDER,
    ROOT,
    Object,
    composed,
    containers,
    deployed,
    everything,
    labels,
    matches,
    named,
    of_kind,
    overlay,
    pods,
    ports_of,
)  # fmt: skip
from tidegate.retraining import create_receiver

IMAGE = re.compile(r"[a-z0-9.-]+(:\d+)?/[a-z0-9./_-]+@sha256:[0-9a-f]{64}")


def every_pod() -> Iterator[tuple[str, Object]]:
    for objects in everything():
        yield from pods(objects)


def every_container() -> Iterator[tuple[str, Object]]:
    for owner, pod in every_pod():
        for each in containers(pod):
            yield f"{owner}/{each['name']}", each


def test_pods_pass_the_restricted_level_and_hold_no_token() -> None:
    for owner, pod in every_pod():
        spec, context = pod["spec"], pod["spec"]["securityContext"]
        asks_the_cluster = owner == "Deployment/retrain"
        assert spec["automountServiceAccountToken"] is asks_the_cluster, owner
        assert spec["enableServiceLinks"] is False, owner
        assert spec["serviceAccountName"] != "default", owner
        assert context["runAsNonRoot"] is True, owner
        assert min(context["runAsUser"], context["runAsGroup"]) > 0, owner
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, owner
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), owner
        kinds = {kind for volume in spec.get("volumes", []) for kind in volume if kind != "name"}
        assert kinds <= {"persistentVolumeClaim", "emptyDir", "configMap", "secret", "image", "projected"}, owner


def test_containers_are_hardened() -> None:
    for name, each in every_container():
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert each["terminationMessagePolicy"] == "FallbackToLogsOnError", name


def test_containers_are_bounded() -> None:
    for name, each in every_container():
        requests, limits = each["resources"]["requests"], each["resources"]["limits"]
        assert {"cpu", "memory", "ephemeral-storage"} <= requests.keys(), name
        assert {"memory", "ephemeral-storage"} <= limits.keys(), name
        assert "cpu" not in limits, f"{name}: a limit on CPU only adds waits"
    for owner, pod in every_pod():
        for volume in pod["spec"].get("volumes", []):
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], f"{owner}: {volume['name']}"


def test_volumes_fit_into_what_the_pod_may_take() -> None:
    """The kubelet evicts a pod whose volumes are above its containers' limits, whatever their own limits are."""
    for owner, pod in every_pod():
        empty = [volume["emptyDir"] for volume in pod["spec"].get("volumes", []) if "emptyDir" in volume]
        for resource, medium in (("ephemeral-storage", None), ("memory", "Memory")):
            limit = sum(_bytes(each["resources"]["limits"][resource]) for each in pod["spec"]["containers"])
            volumes = [_bytes(each["sizeLimit"]) for each in empty if each.get("medium") == medium]
            assert sum(volumes) < limit, f"{owner}: {resource}"


def _bytes(quantity: str) -> int:
    number, unit = int(quantity[:-2]), quantity[-2:]
    return number * {"Mi": 2**20, "Gi": 2**30}[unit]


def test_images_are_pinned_by_digest() -> None:
    for name, each in every_container():
        assert IMAGE.fullmatch(each["image"]), f"{name}: {each['image']}"
        assert each["image"].endswith(PLACEHOLDER) or "example.com" not in each["image"], name


def test_what_is_written_to_is_a_volume_and_models_are_read_only_for_whoever_serves() -> None:
    for owner, pod in every_pod():
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        for each in containers(pod):
            for mount in each["volumeMounts"]:
                volume = volumes.get(mount["name"], {})
                if {"configMap", "secret", "image", "projected"} & volume.keys():
                    assert mount.get("readOnly") is True, f"{owner}/{each['name']}: {mount}"
                if mount["mountPath"] == "/models" and owner.startswith("Deployment"):
                    assert mount["readOnly"] is True, f"{owner}/{each['name']}"
                    assert volume.get("persistentVolumeClaim", {"readOnly": True})["readOnly"] is True


def test_every_reference_leads_somewhere() -> None:
    for objects in everything():
        claims = {o["metadata"]["name"] for o in of_kind(objects, "PersistentVolumeClaim")}
        maps = {o["metadata"]["name"]: o for o in of_kind(objects, "ConfigMap")}
        accounts = {o["metadata"]["name"] for o in of_kind(objects, "ServiceAccount")}
        priorities = {o["metadata"]["name"] for o in of_kind(objects, "PriorityClass")}
        for owner, pod in pods(objects):
            assert pod["spec"]["serviceAccountName"] in accounts, owner
            assert pod["spec"].get("priorityClassName") in {None, *priorities}, owner
            volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
            templates = _claim_templates(objects, owner)
            for name, volume in volumes.items():
                assert volume.get("persistentVolumeClaim", {}).get("claimName") in {None, *claims}, f"{owner}: {name}"
                assert volume.get("configMap", {}).get("name") in {None, *maps}, f"{owner}: {name}"
                for source in volume.get("projected", {}).get("sources", []):
                    assert source["configMap"]["name"] in maps, f"{owner}: {name}"
            for each in containers(pod):
                assert {mount["name"] for mount in each["volumeMounts"]} <= volumes.keys() | templates, owner
                for source in each.get("envFrom", []):
                    assert source["configMapRef"]["name"] in maps, owner
                for mount in each["volumeMounts"]:
                    if "subPath" in mount:
                        assert mount["subPath"] in maps[volumes[mount["name"]]["configMap"]["name"]]["data"], owner


def _claim_templates(objects: tuple[Object, ...], owner: str) -> set[str]:
    kind, name = owner.split("/")
    templates = named(objects, kind, name)["spec"].get("volumeClaimTemplates", [])
    return {template["metadata"]["name"] for template in templates}


def test_every_selector_selects_a_pod_and_every_port_is_one_of_its() -> None:
    for objects in everything():
        templates = [pod for _, pod in pods(objects)]
        for service in of_kind(objects, "Service"):
            chosen = [pod for pod in templates if matches({"matchLabels": service["spec"]["selector"]}, labels(pod))]
            assert len(chosen) == 1, service["metadata"]["name"]
            ports = ports_of(chosen[0])
            for port in service["spec"]["ports"]:
                assert ports[port["targetPort"]] == port["port"], service["metadata"]["name"]
        for each in of_kind(objects, "Deployment", "StatefulSet", "DaemonSet", "PodDisruptionBudget", "PodMonitor"):
            assert [pod for pod in templates if matches(each["spec"]["selector"], labels(pod))], each["metadata"]
        for each in of_kind(objects, "Deployment"):
            for spread in each["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
                assert spread["labelSelector"] == each["spec"]["selector"]


def test_pods_leave_before_they_stop() -> None:
    """Longer than the wait for endpoints to go and the drain together, whatever drains."""
    for objects in everything():
        gateway, triton = (deployed(objects, name) for name in ("gateway", "triton"))
        config = next(o["data"] for o in of_kind(objects, "ConfigMap") if o["metadata"]["name"].startswith("gateway-"))
        drain_s = 2 * float(config["TIDEGATE_DRAIN_TIMEOUT_S"]) + 5  # HTTP, then gRPC
        assert gateway["terminationGracePeriodSeconds"] >= _sleep_s(gateway["containers"][0]) + drain_s
        server = next(each for each in triton["containers"] if each["name"] == "triton")
        exit_s = next(int(a.split("=")[1]) for a in server["args"] if a.startswith("--exit-timeout-secs="))
        assert triton["terminationGracePeriodSeconds"] >= _sleep_s(server) + exit_s + 5


def _sleep_s(container: Object) -> int:
    return int(container["lifecycle"]["preStop"]["sleep"]["seconds"])


def test_disruptions_take_one_at_a_time() -> None:
    for objects in everything():
        budgets = {o["metadata"]["name"]: o["spec"] for o in of_kind(objects, "PodDisruptionBudget")}
        assert {"gateway", "triton"} <= budgets.keys()
        for spec in budgets.values():
            assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")


def test_who_has_an_autoscaler_has_no_replicas_of_its_own() -> None:
    for objects in everything():
        autoscalers = of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
        scaled = {each["spec"]["scaleTargetRef"]["name"] for each in autoscalers}
        assert scaled == {"gateway", "triton"}
        for name in scaled:
            assert "replicas" not in named(objects, "Deployment", name)["spec"]


def test_the_gateway_s_settings_exist_and_can_be_read() -> None:
    for objects in everything():
        container = deployed(objects, "gateway")["containers"][0]
        config = next(o["data"] for o in of_kind(objects, "ConfigMap") if o["metadata"]["name"].startswith("gateway-"))
        given = config | {each["name"]: each["value"] for each in container.get("env", [])}
        settings = Settings(**{key.removeprefix("TIDEGATE_").lower(): value for key, value in given.items()})
        ports = ports_of({"spec": deployed(objects, "gateway")})
        assert ports == {"http": settings.http_port, "grpc": settings.grpc_port, "metrics": settings.metrics_port}
        mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
        for path in (settings.repository, settings.routes, settings.feedback_keys, settings.api_keys):
            assert path is None or any(path.is_relative_to(mount) for mount in mounted), path


@pytest.mark.parametrize(
    ("component", "variable", "file"),
    [("feedback", "TIDEGATE_FEEDBACK_KEYS", "feedback.keys"), ("api-keys", "TIDEGATE_API_KEYS", "api.keys")],
)
def test_a_missing_secret_is_said_by_the_gateway_and_not_by_a_pod_that_never_starts(
    component: str, variable: str, file: str
) -> None:
    """Its message is tried in test_container.py; a Secret that isn't optional leaves the pod in ContainerCreating."""
    pod = deployed(composed((component,)), "gateway")
    given = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    (secret,) = (volume["secret"] for volume in pod["volumes"] if "secret" in volume)
    mount = next(each for each in pod["containers"][0]["volumeMounts"] if each["name"] == secret["secretName"])

    assert secret["optional"] is True
    assert secret["defaultMode"] == 0o440, "for the group of the pod, and nobody else"
    assert given[variable] == f"{mount['mountPath']}/{file}"


def test_probes_ask_for_paths_that_exist() -> None:
    routes = {route.path for route in health_routes(_NO_PLANE).routes}  # type: ignore[attr-defined]
    paths = {
        "gateway": routes,
        "triton": {"/v2/health/live", "/v2/health/ready"},
        "prometheus": {"/-/ready", "/-/healthy"},
        "alertmanager": {"/-/ready", "/-/healthy"},
        "grafana": {"/api/health"},
        "fast-lane": {"/metrics"},  # asked in test_container.py
        "dcgm-exporter": {"/health"},
        "retrain": {route.path for route in create_receiver(_NO_PLANE, None).routes},  # type: ignore[attr-defined]
    }
    for owner, pod in every_pod():
        if owner.partition("/")[0] not in ("Deployment", "StatefulSet", "DaemonSet"):
            continue
        for each in pod["spec"]["containers"]:
            probes = {key: each[key] for key in ("startupProbe", "readinessProbe", "livenessProbe") if key in each}
            assert probes, f"{owner}/{each['name']}"
            for probe in probes.values():
                if "httpGet" in probe:
                    assert probe["httpGet"]["path"] in paths[each["name"]], owner
                    assert probe["httpGet"]["port"] in {port["name"] for port in each["ports"]}, owner
            if each["name"] == "gateway":
                assert probes["livenessProbe"]["httpGet"] != probes["readinessProbe"]["httpGet"]


_NO_PLANE: Any = None  # routes are listed, not called


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_triton_is_started_as_on_a_laptop(name: str) -> None:
    """The launcher's arguments, but for addresses, times and the folder."""
    settings = LaunchSettings(repository=K8S, state_dir=K8S)
    runtime = Runtime(binary=K8S, description="")
    own = {"--model-repository", "--exit-timeout-secs", "--allow-gpu-metrics"}
    addresses = re.compile(r"--(http|grpc|metrics)-(port|address)=")
    there = [a for a in Launcher(runtime, settings)._arguments() if not addresses.match(a)]
    here = next(each for each in deployed(overlay(name), "triton")["containers"] if each["name"] == "triton")["args"]

    assert {a for a in here if a.split("=")[0] not in own} == {a for a in there if a.split("=")[0] not in own}


def test_a_gpu_is_asked_for_where_engines_are_built_and_run() -> None:
    pod = deployed(overlay("gpu"), "triton")
    gpus = {each["name"]: each["resources"]["limits"].get("nvidia.com/gpu") for each in containers({"spec": pod})}

    assert gpus == {"engines": "1", "triton": "1", "loader": None}
    assert named(overlay("gpu"), "Deployment", "triton")["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0
    for _, each in pods(overlay("cpu")):
        assert not [key for c in containers(each) for key in c["resources"]["limits"] if "nvidia" in key]


def test_our_commands_are_programs_of_this_checkout() -> None:
    """`python -m NAME` names a module, `tidegate` a command; what an image brings is held by its Dockerfile's test."""
    for name, each in every_container():
        commands = [each.get("command", []), each.get("startupProbe", {}).get("exec", {}).get("command", [])]
        for command in commands:
            if command[:2] in (["python", "-m"], ["torchrun", "-m"]):
                module = ROOT.joinpath(*command[2].split("."))
                assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), f"{name}: {command}"
