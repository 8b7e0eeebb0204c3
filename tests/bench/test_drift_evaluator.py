"""The evaluator that the drift evaluation rests on gives what promtool gives, for every record of the very rules."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bench.drift.evaluator import Evaluator, Labels, Vector
from bench.drift.ruling import firing, record, rules
from bench.drift.traffic import Distribution, Model, Traffic, counters, gauge, simulate
from monitoring.dispersion import dispersion_group
from monitoring.drift import MEASURED_DISPERSION, WINDOWS, Window
from monitoring.drift_alert import drift_alerts
from monitoring.prometheus import find_binary
from monitoring.rule import Alert, Group, Rule, rule_file


def counted(random: np.random.Generator, num_minutes: int, shift_at: int | None = None) -> dict[str, Vector]:
    model = Model.draw(random, 2_000, ordered=2, categorical=1)
    shifted = Distribution(location=1, scale=1.3)
    traffic = Traffic(rate=9, session=2, shifted=shifted, moved=0.1, shift_at=shift_at)
    series = counters(model, simulate(model, traffic, num_minutes, random))
    measured = {MEASURED_DISPERSION: gauge({"x00": 9, "x01": 1.7}, num_minutes)}
    return series | measured | {"inference_feature_dispersion": gauge({"x00": 2.5, "c00": 0.5}, num_minutes)}


def checks(evaluator: Evaluator, names: set[str], at: int, step_s: int) -> Iterator[dict[str, Any]]:
    """promtool's own words for: every series has the value that the evaluator gives, and there are no more of them."""
    for name in sorted(names):
        vector = evaluator.series[name]
        values = {labels: float(row[at]) for labels, row in zip(vector.labels, vector.values, strict=True)}
        there = {labels: value for labels, value in values.items() if not np.isnan(value)}
        time = f"{at * step_s}s"
        samples = [{"labels": "{}", "value": 1}] if there else []
        yield {"expr": f"count({name}) == bool {len(there)}", "eval_time": time, "exp_samples": samples}
        for labels, value in there.items():
            only = selector(labels if "tail" in dict(labels) else (*labels, ("tail", "")))
            near = f"abs({name}{only} - {value!r}) < bool {max(abs(value), 1) * 1e-9!r}"
            yield {"expr": near, "eval_time": time, "exp_samples": [{"labels": selector(labels), "value": 1}]}


def selector(labels: Labels) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels) + "}"


def written(series: dict[str, Vector]) -> list[dict[str, str]]:
    return [
        {
            "series": name + selector(labels),
            "values": " ".join(map(repr, row.tolist())),
        }
        for name, vector in series.items()
        for labels, row in zip(vector.labels, vector.values, strict=True)
    ]


def promtool(tmp_path: Path, chosen: str, document: dict[str, Any]) -> None:
    (tmp_path / "rules.yml").write_text(chosen, encoding="utf-8")
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": ["rules.yml"], **document}), encoding="utf-8")
    done = subprocess.run(
        [find_binary("promtool"), "test", "rules", path], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[:4000]


@pytest.mark.parametrize(
    ("windows", "step_s", "num", "at"),
    [(WINDOWS[:1], 60, 150, (90, 120, 149)), (WINDOWS[1:], 300, 100, (60, 99))],
    ids=["hour", "long"],
)
def test_every_record_has_promtools_values(
    tmp_path: Path, windows: tuple[Window, ...], step_s: int, num: int, at: tuple[int, ...]
) -> None:
    agree(tmp_path, counted(np.random.default_rng(step_s), num), rules(windows), step_s, at)


def test_the_dispersion_has_promtools_values(tmp_path: Path) -> None:
    series = counted(np.random.default_rng(2), 100)
    del series[MEASURED_DISPERSION]
    group = dispersion_group().rules
    needed = [rule for rule in rules(WINDOWS[-1:]) if "inference_feature_bin:increase" in rule.record]
    agree(tmp_path, series, [*needed, *group], 300, (60, 99))


def agree(tmp_path: Path, series: dict[str, Vector], chosen: list[Rule], step_s: int, at: tuple[int, ...]) -> None:
    evaluator = Evaluator(series, step_s)
    record(evaluator, chosen)
    tests = [one for time in at for one in checks(evaluator, {rule.record for rule in chosen}, time, step_s)]
    assert len(tests) > 100
    promtool(
        tmp_path,
        rule_file([Group(name="all", rules=tuple(chosen))]),
        {
            "evaluation_interval": f"{step_s}s",
            "tests": [{"interval": f"{step_s}s", "input_series": written(series), "promql_expr_test": tests}],
        },
    )


def test_an_alert_fires_in_the_same_minutes_as_promtools(tmp_path: Path) -> None:
    windows = WINDOWS[:1]
    series = counted(np.random.default_rng(1), 240, shift_at=90)
    active = firing(series, windows)
    first = int(np.flatnonzero(active["x00"])[0])
    assert 105 < first < 180

    expr = 'ALERTS{alertname="FeatureDrift", feature="x00", alertstate="firing"}'
    labels = f'{expr[:-1]}, model="m", version="1", severity="warning", team="model"}}'
    tests = [
        {
            "expr": expr,
            "eval_time": f"{m}m",
            "exp_samples": [{"labels": labels, "value": 1}] if active["x00"][m] else [],
        }
        for m in (first - 2, first - 1, first, first + 1, 239)
    ]
    groups: list[Group[Rule] | Group[Alert]] = [
        Group(name="records", rules=tuple(rules(windows))),
        drift_alerts(windows),
    ]
    text = yaml.safe_load(rule_file(groups))
    merged = {"groups": [{"name": "all", "rules": [rule for group in text["groups"] for rule in group["rules"]]}]}
    promtool(
        tmp_path,
        yaml.safe_dump(merged),
        {
            "evaluation_interval": "1m",
            "tests": [{"interval": "1m", "input_series": written(series), "promql_expr_test": tests}],
        },
    )
