"""Accuracy by labels and by confidence, against scipy and arithmetic by hand."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.stats import binomtest

from monitoring.accuracy import ESTIMATE, ESTIMATE_DROP, ESTIMATE_Z, accuracy

Hold = Callable[..., None]

OF = 'model="m", version="1"'
AT = "100m"
NUM_SUMS = 20  # of five minutes each, at 5 to 100 minutes; the increase at 0 has nothing to increase from
MINUTES = 5 * NUM_SUMS


def series(rows: Mapping[str, float]) -> list[dict[str, str]]:
    """Counters by how much they grow a minute, everything else by its value."""
    return [
        {"series": name, "values": f"0+{value!r}x120" if "_total" in name else f"{value!r}x120"}
        for name, value in rows.items()
    ]


def value(record: str, expected: float, labels: str = "") -> dict[str, Any]:
    return {
        "expr": f"abs({record} - {expected!r}) < bool 1e-9",
        "eval_time": AT,
        "exp_samples": [{"labels": f"{{{OF}{labels}}}", "value": 1}],
    }


def absent(record: str) -> dict[str, Any]:
    return {"expr": record, "eval_time": AT, "exp_samples": []}


def check(hold: Hold, rows: Mapping[str, float], checks: list[dict[str, Any]]) -> None:
    hold({"interval": "1m", "input_series": series(rows), "promql_expr_test": checks}, every="5m")


def came(right: float, wrong: float) -> dict[str, float]:
    counter = f"inference_feedback_confidence_total{{{OF}, "
    return {
        f'{counter}bin="0.9", correct="true", instance="a"}}': right,
        f'{counter}bin="0.5", correct="true", instance="b"}}': right,
        f'{counter}bin="0.5", correct="false", instance="b"}}': wrong,
    }


def test_live_accuracy_has_scipys_wilson_interval_and_a_score_against_the_evaluation(hold: Hold) -> None:
    evaluated = {f"model_evaluation_accuracy_ratio{{{OF}}}": 0.95, f"model_evaluation_samples{{{OF}}}": 10_000}
    right, num = 2 * 2 * MINUTES, 5 * MINUTES
    interval = binomtest(right, num).proportion_ci(method="wilson")
    then, now = (np.arcsin(((a + 0.375) / (n + 0.75)) ** 0.5) for a, n in ((9_500, 10_000), (right, num)))

    check(
        hold,
        {**came(2, 1), **evaluated},
        [
            *(value(accuracy(range_), right / num) for range_ in ("24h", "7d")),
            value(accuracy("24h", "low"), float(interval.low)),
            value(accuracy("24h", "high"), float(interval.high)),
            value(accuracy("24h", "drop_z"), float(2 * (then - now) / (1 / num + 1 / 10_000) ** 0.5)),
        ],
    )


def test_below_a_hundred_labels_there_is_no_accuracy(hold: Hold) -> None:
    check(hold, came(0.4, 0.1), [absent(accuracy("24h")), value("model_version:inference_feedback:increase24h", 90)])


def test_the_classes_come_from_the_confusion_matrix(hold: Hold) -> None:
    """`bird` is never right, `other` never called."""
    matrix = {("cat", "cat"): 6, ("cat", "dog"): 2, ("dog", "dog"): 4, ("dog", "cat"): 1, ("cat", "bird"): 1}
    rows = {
        f'inference_feedback_total{{{OF}, predicted="{predicted}", actual="{actual}"}}': float(count)
        for (predicted, actual), count in matrix.items()
    }
    recall = {"cat": 6 / 7, "dog": 4 / 6, "bird": 0.0}
    precision = {"cat": 6 / 9, "dog": 4 / 5}

    record = "model_version_{0}:inference_feedback:{1}_ratio7d"
    check(
        hold,
        {**rows, f'inference_feedback_total{{{OF}, predicted="other", actual="cat"}}': 0.0},
        [
            *(
                value(record.format(side, name) + f'{{{side}="{label}"}}', share, f', {side}="{label}"')
                for side, name, shares in (("actual", "recall", recall), ("predicted", "precision", precision))
                for label, share in shares.items()
            ),
            absent(record.format("predicted", "precision") + '{predicted="other"}'),
        ],
    )


def test_confidence_estimates_accuracy_by_what_it_was_worth_at_training(hold: Hold) -> None:
    q, p, right = np.array([0.25, 0.5, 0.25]), np.array([0.5, 0.25, 0.25]), np.array([0.6, 0.9, 0.99])
    of = f'{OF}, feature="confidence"'
    rows = {f"inference_feature_reference_samples{{{of}}}": 5_000.0}
    for i, cell in enumerate(("00", "10", "19")):
        rows[f'inference_feature_reference_ratio{{{of}, bin="{cell}"}}'] = q[i].item()
        rows[f'inference_feature_bin_total{{{of}, bin="{cell}"}}'] = 12 * p[i].item()
        rows[f'inference_confidence_accuracy_ratio{{{OF}, bin="{cell}"}}'] = right[i].item()
    drop = float(q @ right - p @ right)
    spread = float((q @ right**2 - (q @ right) ** 2) * (1 / (12 * MINUTES) + 1 / 5_000)) ** 0.5

    check(
        hold,
        rows,
        [
            value(ESTIMATE, float(p @ right)),
            value(ESTIMATE_DROP, drop),
            value(ESTIMATE_Z, drop / spread),
        ],
    )


def test_a_contract_without_calibration_has_no_estimate(hold: Hold) -> None:
    of = f'{OF}, feature="confidence"'
    rows = {
        f"inference_feature_reference_samples{{{of}}}": 5_000.0,
        f'inference_feature_reference_ratio{{{of}, bin="00"}}': 1.0,
        f'inference_feature_bin_total{{{of}, bin="00"}}': 60.0,
    }

    check(hold, rows, [absent(record) for record in (ESTIMATE, ESTIMATE_DROP, ESTIMATE_Z)])
