"""Prometheus: its configuration, and how a local one is started.

Limits on what a target may send are there because one bad label can take a Prometheus down. A scrape over a limit
fails as a whole, and a failed scrape shows at once as `up == 0`.
Source: https://prometheus.io/docs/prometheus/2.42/configuration/configuration/
"""

import ipaddress
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from monitoring.drift import INTERVAL_S
from monitoring.error import BinaryNotFound
from monitoring.rule import HEADER
from monitoring.rulebook import RULES_FILE, rules_text

CONFIG_FILE = "prometheus.yml"
SCRAPE_INTERVAL_S = 15
GATEWAYS = ("127.0.0.1:8082",)
TRITONS = ("127.0.0.1:8002",)

_MAX_SCRAPE_TIMEOUT_S = 10
# A version with 30 features has about 2,000 series, most of them bins and latency buckets: room for 25 versions.
_MAX_SAMPLES = {"gateway": 50_000, "triton": 20_000}
_LIMITS = {
    "body_size_limit": "32MB",
    "label_limit": 32,
    "label_name_length_limit": 128,
    "label_value_length_limit": 1024,  # class labels and column names are people's words, and some are long
}


def configuration(
    gateways: Sequence[str] = GATEWAYS,
    tritons: Sequence[str] = TRITONS,
    rule_files: Sequence[str] = (RULES_FILE,),
    scrape_interval_s: int = SCRAPE_INTERVAL_S,
) -> str:
    """Text of `prometheus.yml` that scrapes `host:port` targets as the jobs `gateway` and `triton`.

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
        "scrape_configs": [_job("gateway", gateways), _job("triton", tritons)],
    }
    return HEADER + yaml.safe_dump(document, sort_keys=False, width=1000)


def write_configuration(
    folder: Path,
    *,
    gateways: Sequence[str] = GATEWAYS,
    tritons: Sequence[str] = TRITONS,
    scrape_interval_s: int = SCRAPE_INTERVAL_S,
    drift_interval_s: int = INTERVAL_S,
) -> Path:
    """Write `prometheus.yml` and its rules into a folder, which is made if need be; returns the configuration's path.

    Raises ValueError as `configuration` does.
    """
    config, rules = folder / CONFIG_FILE, folder / RULES_FILE
    text = configuration(gateways, tritons, (RULES_FILE,), scrape_interval_s)
    rules.parent.mkdir(parents=True, exist_ok=True)
    rules.write_text(rules_text(drift_interval_s=drift_interval_s), encoding="utf-8")
    config.write_text(text, encoding="utf-8")
    return config


def command(
    binary: Path,
    config: Path,
    data_dir: Path,
    listen_address: str = "127.0.0.1:9090",
    *,
    retention_days: int = 15,
    retention_size_mb: int = 2048,
) -> list[str]:
    """Command line of a local Prometheus whose data stay below an age (days) and a size (MiB), whichever comes first.

    Prometheus asks nobody who they are: so it listens on the loopback interface only, and can be neither reloaded nor
    stopped nor emptied over HTTP. It is ready when `/-/ready` answers 200. Raises ValueError for another interface.
    """
    host = _split_target(listen_address)[0]
    if not _is_loopback(host):
        raise ValueError(f"a local Prometheus has no authentication: expected a loopback address, got {host!r}")
    return [
        str(binary),
        f"--config.file={config}",
        f"--storage.tsdb.path={data_dir}",
        f"--storage.tsdb.retention.time={retention_days}d",
        f"--storage.tsdb.retention.size={retention_size_mb}MB",
        f"--web.listen-address={listen_address}",
        "--log.level=warn",
    ]


def find_binary(name: Literal["prometheus", "promtool"]) -> Path:
    """Absolute path of a program on PATH; raises BinaryNotFound."""
    found = shutil.which(name)
    if found is None:
        raise BinaryNotFound(
            f"{name} is not on PATH: run `make setup` in the repository, "
            "or `apt-get install prometheus`, which brings both prometheus and promtool"
        )
    return Path(found).absolute()


def _job(name: str, targets: Sequence[str]) -> dict[str, Any]:
    for target in targets:
        _split_target(target)
    return {
        "job_name": name,
        "honor_labels": False,  # a target doesn't get to say which job or instance it is
        "honor_timestamps": False,  # nor when: its clock may be wrong
        "sample_limit": _MAX_SAMPLES[name],
        **_LIMITS,
        "static_configs": [{"targets": list(targets)}],
    }


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
