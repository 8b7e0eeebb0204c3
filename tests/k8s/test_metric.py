"""Autoscalers and monitoring objects ask for what is exported, under the names that the rules know."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring import find_binary
from monitoring.exporter import LISTEN
from monitoring.inventory import optional_metrics, used_metrics
from monitoring.limit import MAX_SAMPLES
from monitoring.promql import metric_names
from monitoring.rulebook import rule_groups
from tests.k8s.cluster import K8S, ROOT, composed, deployed, labels, matches, named, of_kind, pods, ports_of
from tidegate.manifest import manifests, texts

COMPONENTS = K8S / "components"
EXPORTED = used_metrics() | {rule.record for group in rule_groups() for rule in group.rules}


def adapter() -> list[dict[str, Any]]:
    values = yaml.safe_load((COMPONENTS / "hpa/adapter-values.yaml").read_text())
    return list(values["rules"]["external"])


def queries() -> list[str]:
    keda = of_kind(composed(("keda",)), "ScaledObject")
    return [
        *(rule["metricsQuery"] for rule in adapter()),
        *(rule["seriesQuery"] for rule in adapter()),
        *(trigger["metadata"]["query"] for each in keda for trigger in each["spec"]["triggers"]),
    ]


def test_autoscalers_ask_for_metrics_that_are_exported() -> None:
    for query in queries():
        names = metric_names(query)
        assert names, query
        assert names <= EXPORTED, query


def test_what_the_gateway_s_autoscaler_reads_is_documented() -> None:
    documented = (ROOT / "docs/metrics.md").read_text()

    names = {name for query in queries() for name in metric_names(query) if name.startswith("gateway_")}
    assert names == {"gateway_inflight_requests"}
    assert all(f"`{name}{{" in documented for name in names)


def test_promtool_reads_the_autoscalers_queries(tmp_path: Path) -> None:
    rules = [{"record": f"query_{n}", "expr": query} for n, query in enumerate(queries())]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))

    check(tmp_path / "rules.yml", "rules")


def test_the_hpa_asks_for_what_the_adapter_serves() -> None:
    asked = {
        metric["external"]["metric"]["name"]
        for each in of_kind(composed(("hpa",)), "HorizontalPodAutoscaler")
        for metric in each["spec"]["metrics"]
    }

    assert asked == {rule["name"]["as"] for rule in adapter()}


def test_both_autoscalers_scale_alike() -> None:
    hpas = {o["metadata"]["name"]: o["spec"] for o in of_kind(composed(("hpa",)), "HorizontalPodAutoscaler")}
    for each in of_kind(composed(("keda",)), "ScaledObject"):
        spec, hpa = each["spec"], hpas[each["metadata"]["name"]]
        assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (hpa["minReplicas"], hpa["maxReplicas"])
        assert spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]
        targets = [metric["external"]["target"] for metric in hpa["metrics"]]
        assert [(t["metricType"], t["metadata"]["threshold"]) for t in spec["triggers"]] == [
            (target["type"], target.get("averageValue", target.get("value"))) for target in targets
        ]


def test_the_generated_files_are_fresh() -> None:
    for name, text in texts().items():
        path = COMPONENTS / name
        assert path.read_text(encoding="utf-8") == text, f"run `tidegate manifests`: {path} is not what code makes"


def test_manifests_writes_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifests(tmp_path, runbooks="https://wiki.example.com/runbooks")
    assert len(capsys.readouterr().out.split()) == len(texts())
    assert "https://wiki.example.com/runbooks/TritonAbsent.md" in (
        tmp_path / "prometheus-operator/generated/rule.yaml"
    ).read_text(encoding="utf-8")

    manifests(tmp_path, runbooks="https://wiki.example.com/runbooks")
    assert "nothing changed" in capsys.readouterr().out


def test_promtool_accepts_the_configuration_that_is_mounted(tmp_path: Path) -> None:
    """Laid out as the pod mounts it."""
    generated = COMPONENTS / "prometheus/generated"
    (tmp_path / "rules").mkdir()
    for path in generated.glob("tidegate.*.yml"):
        (tmp_path / "rules" / path.name).write_text(path.read_text())
    (tmp_path / "prometheus.yml").write_text((generated / "prometheus.yml").read_text())

    check(tmp_path / "prometheus.yml", "config")
    pod = named(composed(("prometheus",)), "StatefulSet", "prometheus")["spec"]["template"]["spec"]["containers"][0]
    mounted = {mount["mountPath"] for mount in pod["volumeMounts"]}
    assert {"/etc/prometheus/config", "/etc/prometheus/config/rules"} <= mounted
    assert "--config.file=/etc/prometheus/config/prometheus.yml" in pod["args"]


def test_prometheus_scrapes_services_that_exist_under_the_jobs_of_the_rules() -> None:
    objects = composed(("gpu", "prometheus", "fast-lane", "dcgm-exporter"))
    document = yaml.safe_load(named_config(objects, "prometheus")["prometheus.yml"])
    workload = {"gateway": "gateway", "triton": "triton", "drift": "fast-lane", "gpu": "dcgm-exporter"}

    assert {job["job_name"] for job in document["scrape_configs"]} == workload.keys() == MAX_SAMPLES.keys()
    for job in document["scrape_configs"]:
        (discovery,) = job["dns_sd_configs"]
        service = named(objects, "Service", discovery["names"][0])
        assert service["spec"]["selector"] == {"app.kubernetes.io/name": workload[job["job_name"]]}
        assert discovery["port"] in {port["port"] for port in service["spec"]["ports"]}
        assert job["sample_limit"] == MAX_SAMPLES[job["job_name"]]
    (alertmanager,) = document["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    name, port = alertmanager.split(":")
    assert int(port) in {each["port"] for each in named(objects, "Service", name)["spec"]["ports"]}


def test_monitors_scrape_with_limits_under_the_jobs_of_the_rules() -> None:
    objects = composed(("gpu", "prometheus-operator", "fast-lane", "dcgm-exporter"))
    templates = [pod for _, pod in pods(objects)]

    for each in of_kind(objects, "PodMonitor"):
        name, spec = each["metadata"]["name"], each["spec"]
        (scraped,) = (pod for pod in templates if matches(spec["selector"], labels(pod)))
        job = labels(scraped)[spec["jobLabel"]]
        assert job == name
        assert spec["sampleLimit"] == MAX_SAMPLES[job]
        assert min(spec["labelLimit"], spec["labelNameLengthLimit"], spec["labelValueLengthLimit"]) > 0
        assert [endpoint["port"] for endpoint in spec["podMetricsEndpoints"]] == ["metrics"]
        assert "metrics" in ports_of(scraped)
    assert {each["metadata"]["name"] for each in of_kind(objects, "PodMonitor")} == set(MAX_SAMPLES)


def test_the_fast_lane_listens_where_it_does_on_a_laptop_and_asks_the_prometheus_beside_it() -> None:
    objects = composed(("prometheus", "fast-lane"))
    pod = {"spec": deployed(objects, "fast-lane")}
    options = dict(argument.removeprefix("--").split("=") for argument in pod["spec"]["containers"][0]["args"])
    service, _, port = options["prometheus"].removeprefix("http://").partition(":")

    assert options["listen"].rpartition(":")[2] == LISTEN.rpartition(":")[2] == str(ports_of(pod)["metrics"])
    assert int(port) in {each["port"] for each in named(objects, "Service", service)["spec"]["ports"]}


def test_the_exporter_of_gpus_reports_what_the_rules_read_and_nothing_that_takes_root() -> None:
    lines = (COMPONENTS / "dcgm-exporter/counters.csv").read_text().splitlines()
    fields = [[part.strip() for part in line.split(",")] for line in lines if not line.startswith("#")]
    pod = named(composed(("gpu", "dcgm-exporter")), "DaemonSet", "dcgm-exporter")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = {each["name"]: each.get("value") for each in container["env"]}

    assert {name for name, _, _ in fields} == {name for name in optional_metrics() if name.startswith("DCGM_")}
    assert not [name for name, _, _ in fields if "_PROF_" in name]
    assert {kind for _, kind, _ in fields} == {"gauge"}
    mounted = next(each["mountPath"] for each in container["volumeMounts"] if each["name"] == "counters")
    assert given["DCGM_EXPORTER_COLLECTORS"] == f"{mounted}/counters.csv"
    assert "DCGM_EXPORTER_KUBERNETES" not in given, "naming pods takes the kubelet's socket"
    assert "nvidia.com/gpu" not in container["resources"]["limits"], "that GPU would be Triton's no more"


def test_dashboards_carry_the_sidecars_label_and_are_mounted_where_grafana_looks() -> None:
    objects = composed(("prometheus",))
    dashboards = [o for o in of_kind(objects, "ConfigMap") if "grafana_dashboard" in o["metadata"]["labels"]]
    pod = deployed(objects, "grafana")
    mount = next(each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "dashboards")
    volume = next(each for each in pod["volumes"] if each["name"] == "dashboards")
    provider = yaml.safe_load(named_config(objects, "grafana-provisioning")["dashboards.yaml"])["providers"][0]

    files = {path.name for path in (ROOT / "monitoring/dashboards").iterdir()}
    mounted = [source["configMap"]["name"] for source in volume["projected"]["sources"]]
    assert {key for each in dashboards for key in each["data"]} == files
    assert mounted == [each["metadata"]["name"] for each in dashboards]
    assert mount["mountPath"] == provider["options"]["path"]
    for each in dashboards:
        assert len(yaml.safe_dump(each)) < 250_000  # what `kubectl apply` can annotate


def test_every_alert_links_a_runbook() -> None:
    (rule,) = of_kind(composed(("prometheus-operator",)), "PrometheusRule")
    alerts = [each for group in rule["spec"]["groups"] for each in group["rules"] if "alert" in each]

    assert alerts
    for each in alerts:
        assert re.fullmatch(r"docs/runbooks/\w+\.md", each["annotations"]["runbook_url"])


def named_config(objects: Any, name: str) -> dict[str, str]:
    return next(
        dict(o["data"])
        for o in of_kind(objects, "ConfigMap")
        if re.fullmatch(f"{name}-[a-z0-9]+", o["metadata"]["name"])
    )


def check(path: Path, what: str) -> None:
    done = subprocess.run(
        [find_binary("promtool"), "check", what, path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
