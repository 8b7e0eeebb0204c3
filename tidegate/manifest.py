"""The files of `k8s/` that code makes: what a cluster's Prometheus, Alertmanager and Grafana read.

Kustomize reads only what lies below a kustomization, so these can't be the files of `monitoring/` themselves. They are
made of the same values, and a test holds the two together.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tidegate.terminal import JsonOption

FOLDER = Path("k8s/components")
HEADER = "# Made by `tidegate manifests`. Don't edit: change the code of monitoring/ instead.\n"
WEBHOOK = "http://alert-webhook:9095"

_METRICS_SERVICES = {
    "gateway": ("gateway-metrics", 8082),
    "triton": ("triton-metrics", 8002),
    "drift": ("fast-lane-metrics", 9098),  # without the component `fast-lane` a name without addresses: no targets
    "gpu": ("dcgm-exporter-metrics", 9400),  # the same without `dcgm-exporter`
}
_PLAIN, _OPERATOR, _DASHBOARDS = (
    f"{component}/generated" for component in ("prometheus", "prometheus-operator", "dashboards")
)


def manifests(
    folder: Annotated[Path, typer.Option(help="Folder of the components.", exists=True, file_okay=False)] = FOLDER,
    webhook: Annotated[str, typer.Option(help="Where Alertmanager posts, below it team and severity.")] = WEBHOOK,
    retrain: Annotated[str | None, typer.Option(help="Where it asks for a training: http://retrain:8090.")] = None,
    runbooks: Annotated[str | None, typer.Option(help="Address of docs/runbooks, for links in alerts.")] = None,
    json_: JsonOption = False,
) -> None:
    """Write the rules, dashboards and configurations that Kubernetes mounts, and say which changed.

    Example: tidegate manifests --runbooks https://wiki.example.com/runbooks
    """
    from monitoring.file import write_texts
    from tidegate.error import CommandError

    try:
        changed = write_texts(folder, texts(webhook=webhook, retrain=retrain, runbooks=runbooks))
    except ValueError as exc:
        raise CommandError(str(exc)) from exc
    paths = [str(path) for path in changed]
    typer.echo(json.dumps(paths) if json_ else "\n".join(paths) or f"nothing changed in {folder}")


def texts(*, webhook: str = WEBHOOK, retrain: str | None = None, runbooks: str | None = None) -> dict[str, str]:
    """Text of every generated file by its path below `k8s/components`; ValueError for a webhook that is no address."""
    from monitoring.alertmanager import alertmanager_configuration
    from monitoring.rule import RUNBOOKS
    from monitoring.rulebook import alerts_text, rules_text

    recorded, alerts = rules_text(), alerts_text(runbooks=runbooks or RUNBOOKS)
    dashboards = {path.stem: path.read_text(encoding="utf-8") for path in _dashboard_files()}
    return {
        f"{_PLAIN}/prometheus.yml": _prometheus(),
        f"{_PLAIN}/tidegate.rules.yml": recorded,
        f"{_PLAIN}/tidegate.alerts.yml": alerts,
        f"{_PLAIN}/alertmanager.yml": alertmanager_configuration(webhook, retrain=retrain),
        f"{_PLAIN}/grafana.yaml": _grafana(list(dashboards)),
        f"{_OPERATOR}/rule.yaml": _prometheus_rules(recorded, alerts),
        f"{_DASHBOARDS}/dashboards.yaml": _dashboards(dashboards),
    }


def _dashboard_files() -> list[Path]:
    import monitoring

    return sorted((Path(monitoring.__file__).parent / "dashboards").glob("*.json"))


def _prometheus() -> str:
    """The configuration of `monitoring/`, with the pods behind the headless services as its targets."""
    import yaml

    from monitoring.prometheus import configuration

    text = configuration(
        alertmanagers=["alertmanager:9093"],
        detectors=["fast-lane-metrics:9098"],
        devices=["dcgm-exporter-metrics:9400"],
    )
    document = yaml.safe_load(text)
    for job in document["scrape_configs"]:
        name, port = _METRICS_SERVICES[job["job_name"]]
        del job["static_configs"]
        job["dns_sd_configs"] = [{"names": [name], "type": "A", "port": port, "refresh_interval": "15s"}]
    return HEADER + _dump(document)


def _prometheus_rules(*files: str) -> str:
    import yaml

    groups = [group for text in files for group in yaml.safe_load(text)["groups"]]
    kind = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule"}
    return HEADER + _dump({**kind, "metadata": _metadata("tidegate"), "spec": {"groups": groups}})


def _dashboards(texts: Mapping[str, str]) -> str:
    """A ConfigMap each, with the label that Grafana's sidecar looks for, without the blanks that only people read."""
    return HEADER + "---\n".join(
        _dump(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": _metadata(_config_map(name), grafana_dashboard="1"),
                "data": {f"{name}.json": json.dumps(json.loads(text), separators=(",", ":"))},
            }
        )
        for name, text in texts.items()
    )


def _grafana(names: Sequence[str]) -> str:
    """The patch that mounts them all into one folder."""
    sources = [{"configMap": {"name": _config_map(name)}} for name in names]
    volumes = [{"name": "dashboards", "projected": {"sources": sources}}]
    patch = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "grafana"}}
    return HEADER + _dump({**patch, "spec": {"template": {"spec": {"volumes": volumes}}}})


def _config_map(dashboard: str) -> str:
    return f"dashboard-{dashboard}"


def _metadata(name: str, **labels: str) -> dict[str, Any]:
    ours = {"app.kubernetes.io/name": name, "app.kubernetes.io/component": "monitoring"}
    return {"name": name, "labels": ours | labels}


def _dump(document: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(document, sort_keys=False, width=1000))
