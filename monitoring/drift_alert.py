"""When somebody is told that what a model is asked, or answers, has changed.

It must be sure and enough to matter in any window, for as long as `PENDING`; `drift` says what that is.
"""

from collections.abc import Sequence

from contract import embedding
from contract.observation import OUTPUT_FEATURES
from monitoring.drift import WINDOWS, Window
from monitoring.rule import OF, Alert, Group, recent
from monitoring.statistic import ALARM_Z

PENDING = "15m"
# Features of what a model answers, what is watched of its embedding among them; all others are its inputs.
OUTPUTS = "|".join((*OUTPUT_FEATURES, f"{embedding.PREFIX[:-1]}[.]({'|'.join(embedding.KINDS)})[0-9]*"))

_Z = f'z = {{{{ printf "%.1f" $value }}}} where {ALARM_Z} is the limit'


def drift_alerts(windows: Sequence[Window] = WINDOWS, pending: str = PENDING) -> Group[Alert]:
    """Inputs, outputs, and values that the reference hasn't."""

    def alert(name: str, summary: str, expressions: Sequence[str]) -> Alert:
        expr = "\nor ".join(expressions)
        return Alert(name=name, expr=expr, pending=pending, severity="warning", team="model", summary=summary)

    def drifted(matcher: str) -> list[str]:
        return [f"{_recent(window, window.record('alarm_z') + f'{{{matcher}}}')} > 0" for window in windows]

    feature = "{{ $labels.feature }}"
    return Group(
        name="drift_alerts",
        rules=(
            alert("FeatureDrift", f"{OF}: the input {feature} has drifted, {_Z}", drifted(f'feature!~"{OUTPUTS}"')),
            alert("PredictionDrift", f"{OF}: the output {feature} has drifted, {_Z}", drifted(f'feature=~"{OUTPUTS}"')),
            alert(
                "UnseenValues",
                f"{OF}: more of {feature} is {{{{ $labels.bin }}}} than in the reference, {_Z}",
                [f"{_recent(window, window.unseen_z)} > {ALARM_Z}" for window in windows],
            ),
        ),
    )


def _recent(window: Window, series: str) -> str:
    """The last value of a series: what is evaluated every five minutes would flicker otherwise."""
    return recent(series) if window.downsampled else series
