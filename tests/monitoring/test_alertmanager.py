"""Who is told what, by Alertmanager's own tester; and that every name in its configuration is one of an alert."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from monitoring.alertmanager import ASK_FOR_TRAINING, INHIBITIONS, alertmanager_configuration
from monitoring.prometheus import find_binary
from monitoring.rulebook import alert_groups

ALERTS = [alert for group in alert_groups() for alert in group.rules]
Amtool = Callable[..., str]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("alertmanager") / "alertmanager.yml"
    path.write_text(alertmanager_configuration("https://bell.example/hook/"), encoding="utf-8")
    return path


def amtool(*arguments: str | Path) -> str:
    done = subprocess.run([find_binary("amtool"), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_amtool_accepts_the_configuration(config: Path) -> None:
    assert "7 receivers" in amtool("check-config", config)


@pytest.mark.parametrize("alert", {(a.severity, a.team): a for a in ALERTS}.values(), ids=lambda alert: alert.name)
def test_an_alert_reaches_its_team_at_its_severity(config: Path, alert: object) -> None:
    severity, team, name = (getattr(alert, key) for key in ("severity", "team", "name"))
    expected = "watchdog" if name == "Watchdog" else f"{team}-{severity}"

    labels = (f"alertname={name}", f"severity={severity}", f"team={team}", "model=m")
    assert amtool("config", "routes", "test", f"--config.file={config}", *labels).strip() == expected


def test_what_no_route_knows_is_heard(config: Path) -> None:
    assert amtool("config", "routes", "test", f"--config.file={config}", "alertname=New").strip() == "platform-critical"


def test_a_webhook_is_told_team_and_severity_in_its_address(config: Path) -> None:
    receivers = yaml.safe_load(config.read_text(encoding="utf-8"))["receivers"]
    urls = {receiver["name"]: receiver["webhook_configs"][0]["url"] for receiver in receivers}

    assert urls["watchdog"] == "https://bell.example/hook/watchdog"
    assert urls["model-warning"] == "https://bell.example/hook/model/warning"


@pytest.mark.parametrize("webhook", ["", "bell.example", "ftp://bell.example", "http:///path"])
def test_a_webhook_is_an_address(webhook: str) -> None:
    with pytest.raises(ValueError, match="webhook"):
        alertmanager_configuration(webhook)


def test_a_training_is_asked_for_beside_the_people(tmp_path: Path) -> None:
    config = tmp_path / "alertmanager.yml"
    config.write_text(alertmanager_configuration(retrain="http://retrain:8090/"), encoding="utf-8")

    assert "8 receivers" in amtool("check-config", config)
    for name in ASK_FOR_TRAINING:
        (alert,) = (alert for alert in ALERTS if alert.name == name)
        labels = (f"alertname={name}", f"severity={alert.severity}", f"team={alert.team}", "model=m")
        told = amtool("config", "routes", "test", f"--config.file={config}", *labels).strip()
        assert told == f"retrain,{alert.team}-{alert.severity}"


def test_inhibitions_name_alerts_that_there_are_and_no_warning_hushes_a_page() -> None:
    severities: dict[str, set[str]] = {}
    for alert in ALERTS:
        severities.setdefault(alert.name, set()).add(alert.severity)
    for inhibition in INHIBITIONS:
        cause, consequences = (_names(text) for text in (inhibition.cause, inhibition.consequences))
        assert cause | consequences <= severities.keys()
        assert not cause & consequences
        if cause and "critical" not in set().union(*(severities[name] for name in cause)):
            assert "critical" not in set().union(*(severities[name] for name in consequences))


def _names(matcher: str) -> set[str]:
    found = re.fullmatch(r"alertname=~?(.*)", matcher)
    return set(found.group(1).split("|")) if found else set()
