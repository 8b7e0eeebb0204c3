"""How good the models are now: from the true labels that came back, and, where none come, from their confidence.

Live accuracy is the share of feedback that was right, with its Wilson interval; recall and precision of each class come
from the confusion matrix. Labels come late and few, so the windows are a day and a week.

Without labels: at training the share of right answers was counted in each confidence bin of the profile
(`inference_confidence_accuracy_ratio`). The mean of those shares, weighted by the traffic now in each bin, estimates
the accuracy of the last day, as long as the model is as well calibrated on today's traffic as it was then. It sees a
model that has become unsure, and it can't see one that is wrong and sure of it: so the estimate is held against the
real labels wherever some come, and an alert says when it can't be believed.
Source: Guillory et al., "Predicting with Confidence on Unseen Distributions" (2021).
"""

from collections.abc import Iterator

from monitoring.drift import MIN_SAMPLES, WINDOWS
from monitoring.reference import RATIO
from monitoring.rule import OF, PERCENT, SLOW_INTERVAL_S, Alert, Group, Rule, recent
from monitoring.statistic import ALARM_Z, arcsine, wilson

RANGES = ("24h", "7d")
MIN_LABELS = 100
SMALLEST_DROP = 0.02  # two points

_VERSION = "model, version"
_WINDOW = WINDOWS[-1]
CORRECT = "model_version_correct:inference_feedback:increase5m"
CONFUSION = "model_version_predicted_actual:inference_feedback:increase5m"
CALIBRATION = "inference_confidence_accuracy_ratio"
EVALUATED = "model_evaluation_accuracy_ratio"
EVALUATED_SAMPLES = "model_evaluation_samples"
ESTIMATE = "model_version:inference_accuracy_estimate:ratio24h"
ESTIMATE_Z = "model_version:inference_accuracy_estimate:drop_z_ratio24h"
ESTIMATE_DROP = "model_version:inference_accuracy_estimate:drop_ratio24h"


def labels(range_: str) -> str:
    """Name of the recorded number of true labels that came."""
    return f"model_version:inference_feedback:increase{range_}"


def accuracy(range_: str, operation: str = "") -> str:
    """Name of the recorded share of right answers, or of its `low` or `high` bound or `drop_z`."""
    return f"model_version:inference_feedback_accuracy:{f'{operation}_' if operation else ''}ratio{range_}"


def accuracy_group(interval_s: int = SLOW_INTERVAL_S) -> Group[Rule]:
    """Accuracy, its interval, the classes, and the estimate without labels; absent below 100 labels or 200 samples.

    Evaluated every fifth time only, so read them by `last_over_time(...[11m])`.
    """
    exact = "sum by (model, version, correct) (increase(inference_feedback_confidence_total[5m]))"
    pairs = "sum by (model, version, predicted, actual) (increase(inference_feedback_total[5m])) > 0"
    return Group(
        name="accuracy",
        interval_s=5 * interval_s,
        rules=(
            Rule(record=CORRECT, expr=exact),
            Rule(record=CONFUSION, expr=pairs),
            *(rule for range_ in RANGES for rule in _live(range_)),
            *_classes(),
            *_estimate(),
        ),
    )


def accuracy_alerts() -> Group[Alert]:
    """True labels, or the model's own confidence, say that it has become worse."""
    evaluated = f"max by ({_VERSION}) ({EVALUATED})"
    live = "\nor ".join(
        f"({recent(accuracy(r))} < {evaluated} - {SMALLEST_DROP}\nand {recent(accuracy(r, 'drop_z'))} > {ALARM_Z})"
        for r in RANGES
    )
    estimate, day = recent(ESTIMATE), RANGES[0]
    high, low = recent(accuracy(day, "high")), recent(accuracy(day, "low"))
    return Group(
        name="accuracy_alerts",
        rules=(
            Alert(
                name="AccuracyLow",
                expr=live,
                pending="15m",
                severity="warning",
                team="model",
                summary=f"{OF}: {PERCENT} of the answers whose true label came were right, more than two points less "
                "than at its evaluation",
            ),
            Alert(
                name="EstimatedAccuracyLow",
                expr=f"{recent(ESTIMATE_DROP)} > {SMALLEST_DROP}\nand {recent(ESTIMATE_Z)} > {ALARM_Z}",
                pending="15m",
                severity="warning",
                team="model",
                summary=f"{OF}: its confidence says that accuracy fell by {PERCENT} over the last day",
            ),
            Alert(
                name="AccuracyEstimateWrong",
                expr=f"{estimate} - {high} > 0.05\nor {low} - {estimate} > 0.05",
                pending="1h",
                severity="warning",
                team="model",
                summary=f"{OF}: the accuracy estimated without labels is {PERCENT} outside the interval of the "
                "accuracy by true labels",
            ),
        ),
    )


def _live(range_: str) -> Iterator[Rule]:
    num, share = labels(range_), accuracy(range_)
    right = f'sum by ({_VERSION}) (sum_over_time({CORRECT}{{correct="true"}}[{range_}]))'
    yield Rule(record=num, expr=f"sum by ({_VERSION}) (sum_over_time({CORRECT}[{range_}]))")
    yield Rule(record=share, expr=f"{right} / ({num} >= {MIN_LABELS})")
    yield Rule(record=accuracy(range_, "low"), expr=wilson(share, num, "-"))
    yield Rule(record=accuracy(range_, "high"), expr=wilson(share, num, "+"))
    evaluated, samples = (f"max by ({_VERSION}) ({metric})" for metric in (EVALUATED, EVALUATED_SAMPLES))
    then, now = arcsine(f"{evaluated} * {samples}", samples), arcsine(f"{share} * {num}", num)
    yield Rule(record=accuracy(range_, "drop_z"), expr=f"2 * ({then} - {now})\n/ sqrt(1 / ({num} > 0) + 1 / {samples})")


def _classes() -> Iterator[Rule]:
    """Of those that were a class, how many were found; of those called a class, how many were it."""
    matrix = f"sum by (model, version, predicted, actual) (sum_over_time({CONFUSION}[7d]))"
    for name, label, other in (("recall", "actual", "predicted"), ("precision", "predicted", "actual")):
        total = f"sum by (model, version, {label}) ({matrix})"
        diagonal = f'label_replace({total}, "{other}", "$1", "{label}", "(.*)")'
        right = f"({matrix}\nand on (model, version, predicted, actual) {diagonal})"
        yield Rule(
            record=f"model_version_{label}:inference_feedback:{name}_ratio7d",
            expr=f"sum by (model, version, {label}) (\n  {right}\n  or {diagonal} * 0\n)\n/ {total}",
        )


def _estimate() -> Iterator[Rule]:
    """Accuracy by confidence, its drop against the same sum over the reference, and how sure that drop is."""
    confidence = '{feature="confidence"}'
    names = (_WINDOW.count, _WINDOW.record(), _WINDOW.record("variance"))
    count, num, h = (recent(f"{name}{confidence}") for name in names)
    by_bin = "on (model, version, bin) group_left ()"
    right = f"max by (model, version, bin) ({CALIBRATION})"
    estimate = f"sum by ({_VERSION}) ({count} * {by_bin} {right})\n/ sum by ({_VERSION}) ({num} >= {MIN_SAMPLES})"
    yield Rule(record=ESTIMATE, expr=estimate)

    def reference(power: int) -> str:
        return f"sum by ({_VERSION}) ({RATIO}{confidence} * {by_bin} {right} ^ {power})"

    yield Rule(record=ESTIMATE_DROP, expr=f"{reference(1)}\n- {ESTIMATE}")
    spread = f"sqrt(({reference(2)} - {reference(1)} ^ 2 > 0) * sum by ({_VERSION}) ({h}))"
    yield Rule(record=ESTIMATE_Z, expr=f"{ESTIMATE_DROP}\n/ {spread}")
