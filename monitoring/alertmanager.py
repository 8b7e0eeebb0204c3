"""Alertmanager: who is told what, how often, and what isn't said because its cause is.

Everything goes to one webhook, `<webhook>/<team>/<severity>`: what stands there knows pagers, tickets and chats.
The watchdog goes to `<webhook>/watchdog` without end; whoever waits there raises the alarm when it stops.
Source: https://prometheus.io/docs/alerting/0.25/configuration/
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import yaml

from monitoring.prometheus import require_loopback
from monitoring.rule import HEADER, Severity, Team

ALERTMANAGER_FILE = "alertmanager.yml"
WEBHOOK = "http://127.0.0.1:9095"

# What a model that learned from newer data may mend.
ASK_FOR_TRAINING = ("FeatureDrift", "PredictionDrift", "AccuracyLow", "EstimatedAccuracyLow")

_TEAMS: tuple[Team, ...] = get_args(Team)
_REPEAT: Mapping[Severity, str] = {"critical": "4h", "warning": "3d", "info": "5d"}
_OF_TRITON = (
    "InferenceWedged|QueueDominatesCompute|RequestsRejected|BackendFailures|RetryBudgetExhausted|FallbackActive"
    "|BreakerOpen|CanaryWorse|AvailabilityBudgetBurn|LatencyBudgetBurn|ReplicasDisagree"
)


_WATCHDOG_ROUTE = {
    "receiver": "watchdog",
    "matchers": ["alertname=Watchdog"],
    "group_wait": "0s",
    "group_interval": "1m",
    "repeat_interval": "1m",
}


_RETRAIN_ROUTE = {
    "receiver": "retrain",
    "matchers": [f"alertname=~{'|'.join(ASK_FOR_TRAINING)}"],
    "continue": True,  # people are told as well
    "repeat_interval": "12h",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Inhibition:
    """While an alert matches `cause`, those that match `consequences` and equal it in each label aren't sent."""

    cause: str
    consequences: str
    equal: tuple[str, ...] = ()


INHIBITIONS = (
    # Of one alert at several severities, the worst says it all.
    Inhibition(cause="severity=critical", consequences="severity=~warning|info", equal=("alertname", "model", "slo")),
    Inhibition(cause="alertname=GatewayAbsent", consequences="alertname=~TritonAbsent|ScrapeFailing|DriftRulesStale"),
    Inhibition(cause="alertname=TritonAbsent", consequences=f"alertname=~{_OF_TRITON}"),
    Inhibition(cause="alertname=TritonAbsent", consequences="alertname=ScrapeFailing", equal=("job",)),
    Inhibition(
        cause="alertname=InferenceWedged",
        consequences="alertname=~QueueDominatesCompute|RequestsRejected|LatencyBudgetBurn|AvailabilityBudgetBurn",
        equal=("model",),
    ),
    Inhibition(
        cause="alertname=UnseenValues",
        consequences="alertname=~FeatureDrift|PredictionDrift",
        equal=("model", "version", "feature"),
    ),
)


def alertmanager_configuration(
    webhook: str = WEBHOOK, *, retrain: str | None = None, group_wait: str = "30s", group_interval: str = "5m"
) -> str:
    """Text of `alertmanager.yml` that posts to an address below `webhook` for each team and severity.

    With `retrain`, alerts that a training may mend go there too. Raises ValueError for one that is no http or https
    address.
    """
    root = _address(webhook)
    places = [(f"{team}-{severity}", team, severity) for team in _TEAMS for severity in _REPEAT]
    document = {
        "route": {
            "receiver": "platform-critical",  # what no route knows is better heard than lost
            "group_by": ["alertname", "model", "version"],  # thirty features that drift together are one message
            "group_wait": group_wait,
            "group_interval": group_interval,
            "repeat_interval": "4h",
            "routes": [_WATCHDOG_ROUTE, *([_RETRAIN_ROUTE] if retrain else []), *(_route(*place) for place in places)],
        },
        "inhibit_rules": [_inhibition(inhibition) for inhibition in INHIBITIONS],
        "receivers": [
            {"name": "watchdog", "webhook_configs": [{"url": f"{root}/watchdog", "send_resolved": False}]},
            *([_retrain(retrain)] if retrain else []),
            *(
                {"name": name, "webhook_configs": [{"url": f"{root}/{team}/{severity}", "send_resolved": True}]}
                for name, team, severity in places
            ),
        ],
    }
    return HEADER + yaml.safe_dump(document, sort_keys=False, width=1000)


def alertmanager_command(
    binary: Path, config: Path, data_dir: Path, listen_address: str = "127.0.0.1:9093"
) -> list[str]:
    """Command line of a local Alertmanager, alone and on the loopback interface; ready when `/-/ready` answers 200.

    Raises ValueError for another interface.
    """
    require_loopback("Alertmanager", listen_address)
    return [
        str(binary),
        f"--config.file={config}",
        f"--storage.path={data_dir}",
        f"--web.listen-address={listen_address}",
        "--cluster.listen-address=",
        "--log.level=warn",
    ]


def _address(webhook: str) -> str:
    parts = urlsplit(webhook)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"expected a webhook like {WEBHOOK}, got {webhook!r}")
    return webhook.rstrip("/")


def _retrain(address: str) -> dict[str, Any]:
    return {"name": "retrain", "webhook_configs": [{"url": f"{_address(address)}/alerts", "send_resolved": False}]}


def _route(receiver: str, team: Team, severity: Severity) -> dict[str, Any]:
    matchers = [f"team={team}", f"severity={severity}"]
    return {"receiver": receiver, "matchers": matchers, "repeat_interval": _REPEAT[severity]}


def _inhibition(inhibition: Inhibition) -> dict[str, Any]:
    return {
        "source_matchers": [inhibition.cause],
        "target_matchers": [inhibition.consequences],
        "equal": list(inhibition.equal),
    }
