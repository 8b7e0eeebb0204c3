"""Runs Prometheus' own rule tester over the rules that an expectation needs, and no others, so that it is quick."""

import subprocess
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.prometheus import find_binary
from monitoring.promql import metric_names
from monitoring.rule import Alert, Group, Rule, rule_file
from monitoring.rulebook import alert_groups, rule_groups


@pytest.fixture
def promtool() -> Callable[..., str]:
    """Run promtool with arguments and return what it says; fails when it does."""

    def run(*arguments: str | Path) -> str:
        done = subprocess.run(
            [find_binary("promtool"), *arguments], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[:8000]
        return done.stdout

    return run


@pytest.fixture
def hold(tmp_path: Path, promtool: Callable[..., str]) -> Callable[..., None]:
    """Hold checks against the rules: each of `tests` is a list of series, and of promtool's own checks on them."""

    def run(*tests: Mapping[str, Any], every: str) -> None:
        checks = [check for test in tests for check in test.get("promql_expr_test", ())]
        alerts = {check["alertname"] for test in tests for check in test.get("alert_rule_test", ())}
        records, chosen = needed([check["expr"] for check in checks], alerts)
        rules = tmp_path / "needed.rules.yml"
        rules.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": records + chosen}]}), encoding="utf-8")
        document = {"rule_files": [rules.name], "evaluation_interval": every, "tests": list(tests)}
        path = tmp_path / "unit.test.yml"
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        promtool("test", "rules", path)

    return run


def needed(expressions: Iterable[str], names: Collection[str]) -> tuple[list[Any], list[Any]]:
    """The alerts of these names, and before them each record that they and the expressions read.

    They go into one group, for promtool evaluates groups in no order, and all of them as often.
    """
    alerts = [alert for group in alert_groups() for alert in group.rules if alert.name in names]
    reading: dict[str, list[str]] = {}
    for group in rule_groups():
        for rule in group.rules:
            reading.setdefault(rule.record, []).append(rule.expr)
    wanted = set[str]()
    reads = [*expressions, *(alert.expr for alert in alerts)]
    while reads:
        new = {name for expr in reads for name in metric_names(expr)} - wanted
        wanted |= new
        reads = [expr for name in new for expr in reading.get(name, ())]
    rules = [rule for group in rule_groups() for rule in group.rules if rule.record in wanted]
    return _written(Group(name="records", rules=tuple(rules))), _written(Group(name="alerts", rules=tuple(alerts)))


def _written(group: Group[Rule] | Group[Alert]) -> list[Any]:
    written: list[Any] = yaml.safe_load(rule_file([group]))["groups"][0]["rules"]
    return written
