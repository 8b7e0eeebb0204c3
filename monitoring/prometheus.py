"""Prometheus: its configuration, and how a local one is started.

Source: https://prometheus.io/docs/prometheus/2.42/configuration/configuration/
"""

import ipaddress
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from monitoring.error import BinaryNotFound
from monitoring.file import write_texts
from monitoring.limit import MAX_SAMPLES
from monitoring.rule import HEADER, RUNBOOKS, SLOW_INTERVAL_S
from monitoring.rulebook import ALERTS_FILE, RULES_FILE, alerts_text, rules_text

Binary = Literal["prometheus", "promtool", "prometheus-alertmanager", "amtool"]

CONFIG_FILE = "prometheus.yml"
SCRAPE_INTERVAL_S = 15
GATEWAYS = ("127.0.0.1:8082",)
TRITONS = ("127.0.0.1:8002",)

_MAX_SCRAPE_TIMEOUT_S = 10
_LIMITS = {
    "body_size_limit": "32MB",
    "label_limit": 32,
    "label_name_length_limit": 128,
    "label_value_length_limit": 1024,  # class labels and column names are people's words, and some are long
}


def configuration(
    gateways: Sequence[str] = GATEWAYS,
    tritons: Sequence[str] = TRITONS,
    rule_files: Sequence[str] = (RULES_FILE, ALERTS_FILE),
    scrape_interval_s: int = SCRAPE_INTERVAL_S,
    alertmanagers: Sequence[str] = (),
    detectors: Sequence[str] = (),
    devices: Sequence[str] = (),
) -> str:
    """Text of `prometheus.yml` that scrapes `host:port` targets as the jobs `gateway` and `triton`.

    `detectors` are exporters of drift's fast lane, the job `drift`; `devices` are DCGM exporters, the job `gpu`. Alerts
    are sent to every `host:port` of `alertmanagers`; without one they only show in Prometheus.

    `rule_files` are absolute, or relative to the folder of the configuration. Rules are evaluated as often as targets
    are scraped. Raises ValueError for an interval under a second or a target that isn't `host:port`.
    """
    if scrape_interval_s < 1:
        raise ValueError(f"expected a scrape interval of at least 1 s, got {scrape_interval_s}")
    document = {
        "global": {
            "scrape_interval": f"{scrape_interval_s}s",
            "scrape_timeout": f"{min(scrape_interval_s, _MAX_SCRAPE_TIMEOUT_S)}s",
            "evaluation_interval": f"{scrape_interval_s}s",
        },
        "rule_files": list(rule_files),
        **({"alerting": {"alertmanagers": [_targets(alertmanagers)]}} if alertmanagers else {}),
        "scrape_configs": [
            _job("gateway", gateways),
            _job("triton", tritons),
            *([_job("drift", detectors)] if detectors else []),
            *([_job("gpu", devices)] if devices else []),
        ],
    }
    return HEADER + yaml.safe_dump(document, sort_keys=False, width=1000)


def write_configuration(
    folder: Path,
    *,
    gateways: Sequence[str] = GATEWAYS,
    tritons: Sequence[str] = TRITONS,
    scrape_interval_s: int = SCRAPE_INTERVAL_S,
    slow_interval_s: int = SLOW_INTERVAL_S,
    alertmanagers: Sequence[str] = (),
    detectors: Sequence[str] = (),
    runbooks: str = RUNBOOKS,
) -> Path:
    """Write `prometheus.yml`, its rules and alerts into a folder, made if need be; returns the configuration's path.

    Raises ValueError as `configuration` does.
    """
    texts = {
        CONFIG_FILE: configuration(
            gateways,
            tritons,
            scrape_interval_s=scrape_interval_s,
            alertmanagers=alertmanagers,
            detectors=detectors,
        ),
        RULES_FILE: rules_text(slow_interval_s=slow_interval_s),
        ALERTS_FILE: alerts_text(slow_interval_s=slow_interval_s, runbooks=runbooks),
    }
    write_texts(folder, texts)
    return folder / CONFIG_FILE


def command(
    binary: Path,
    config: Path,
    data_dir: Path,
    listen_address: str = "127.0.0.1:9090",
    *,
    retention_days: int = 35,
    retention_size_mb: int = 2048,
) -> list[str]:
    """Command line of a local Prometheus whose data stay below an age (days) and a size (MiB), whichever comes first.

    An error budget looks back over 30 days, so the age is above that.

    Prometheus asks nobody who they are: so it listens on the loopback interface only, and can be neither reloaded nor
    stopped nor emptied over HTTP. It is ready when `/-/ready` answers 200. Raises ValueError for another interface.
    """
    require_loopback("Prometheus", listen_address)
    return [
        str(binary),
        f"--config.file={config}",
        f"--storage.tsdb.path={data_dir}",
        f"--storage.tsdb.retention.time={retention_days}d",
        f"--storage.tsdb.retention.size={retention_size_mb}MB",
        f"--web.listen-address={listen_address}",
        "--log.level=warn",
    ]


def require_loopback(program: str, listen_address: str) -> None:
    """Raise ValueError unless `host:port` is on the loopback interface, for what asks nobody who they are."""
    host = _split_target(listen_address)[0]
    if not _is_loopback(host):
        raise ValueError(f"a local {program} has no authentication: expected a loopback address, got {host!r}")


def find_binary(name: Binary) -> Path:
    """Absolute path of a program on PATH; raises BinaryNotFound."""
    found = shutil.which(name)
    if found is None:
        package = "prometheus" if name in ("prometheus", "promtool") else "prometheus-alertmanager"
        raise BinaryNotFound(
            f"{name} is not on PATH: run `make setup` in the repository, or `apt-get install {package}`, which has it"
        )
    return Path(found).absolute()


def _job(name: str, targets: Sequence[str]) -> dict[str, Any]:
    return {
        "job_name": name,
        "honor_labels": False,  # a target doesn't get to say which job or instance it is
        "honor_timestamps": False,  # nor when: its clock may be wrong
        "sample_limit": MAX_SAMPLES[name],
        **_LIMITS,
        **_targets(targets),
    }


def _targets(targets: Sequence[str]) -> dict[str, Any]:
    for target in targets:
        _split_target(target)
    return {"static_configs": [{"targets": list(targets)}]}


def _split_target(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"expected host:port, got {target!r}")
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
