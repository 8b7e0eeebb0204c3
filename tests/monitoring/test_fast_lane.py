from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

from monitoring.detector import STEP_S
from monitoring.fast_lane import BUDGET_MINUTES, EVIDENCE, LIMIT, STALE_S, TIMESTAMP, fast_lane_alerts, fast_lane_group
from monitoring.rule import rule_file

LABELS = 'model="m", version="1"'


def test_the_alert_is_above_two_months_for_each_feature_and_stale_when_time_stands_still(
    promtool: Callable[..., str], tmp_path: Path
) -> None:
    limit = float(np.log10(BUDGET_MINUTES * 2))
    series = [
        {"series": f'{EVIDENCE}{{{LABELS}, feature="x", instance="a"}}', "values": f"{limit - 1}x9 {limit + 1.5}x20"},
        {"series": f'{EVIDENCE}{{{LABELS}, feature="x", instance="b"}}', "values": f"{limit - 1}x30"},
        {"series": f'{EVIDENCE}{{{LABELS}, feature="y", instance="a"}}', "values": "1x30"},
        {"series": TIMESTAMP, "values": f"0+{STEP_S}x10 {10 * STEP_S}x30"},
    ]
    fast = {"severity": "warning", "team": "model", "model": "m", "version": "1", "feature": "x"}
    stale = {"severity": "warning", "team": "platform"}
    summary = "m version 1: x has drifted; by chance it would look like this once in 10^7 minutes"
    slow = "drift's fast lane has read nothing for 10m 0s; the windows go on"
    books = "docs/runbooks"

    def expected(minute: int, name: str, labels: dict[str, str] | None, text: str) -> dict[str, object]:
        alerts = [{"exp_labels": labels, "exp_annotations": {"summary": text, "runbook_url": f"{books}/{name}.md"}}]
        return {"eval_time": f"{minute}m", "alertname": name, "exp_alerts": alerts if labels else []}

    checks = [
        expected(9, "FeatureDriftFast", None, ""),
        expected(12, "FeatureDriftFast", fast, summary),
        expected(15, "FastLaneStale", None, ""),
        expected(20, "FastLaneStale", None, ""),
        expected(21, "FastLaneStale", stale, slow.replace("10m", "11m")),
    ]
    text = yaml.safe_load(rule_file([fast_lane_group(), fast_lane_alerts()]))
    rules = [rule for group in text["groups"] for rule in group["rules"]]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    limits = {"expr": LIMIT, "eval_time": "5m", "exp_samples": [{"labels": f"{LIMIT}{{{LABELS}}}", "value": limit}]}
    test = {"interval": "1m", "input_series": series, "promql_expr_test": [limits], "alert_rule_test": checks}
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]}))

    assert STALE_S == 300
    promtool("test", "rules", path)
