"""A release as it goes: each version against the others of its model, and a shadow against who answers.

A version is worse when its share of bad requests (see `objective`) is surely and by enough above that of all others of
the model over the same half hour. Both get the same traffic at the same time, so a bad day of Triton's blames neither.
Versions of different models behind one route aren't compared: what went wrong is counted by model and version.
"""

from collections.abc import Iterator

from monitoring.objective import BAD_BY_VERSION, VALID_BY_VERSION
from monitoring.rule import OF, PERCENT, SLOW_INTERVAL_S, Alert, Group, Rule
from monitoring.statistic import ALARM_Z, arcsine

RANGE = "30m"
MIN_REQUESTS = 100  # of each side
MIN_COMPARED = 200
MAX_AGE_DAYS = 90

_LEVEL = "model_version_slo"
_NUM = f"{_LEVEL}:gateway_requests:increase{RANGE}"
_BAD = f"{_LEVEL}:gateway_requests_bad:increase{RANGE}"
_NUM_OTHERS = f"{_LEVEL}:gateway_requests_of_others:increase{RANGE}"
_BAD_OTHERS = f"{_LEVEL}:gateway_requests_of_others_bad:increase{RANGE}"
EXCESS = f"{_LEVEL}:gateway_requests_bad:excess_ratio{RANGE}"
EXCESS_Z = f"{_LEVEL}:gateway_requests_bad:excess_z{RANGE}"
DISAGREEMENT = f"route_target:gateway_shadow_disagreement:ratio{RANGE}"


def rollout_group(interval_s: int = SLOW_INTERVAL_S) -> Group[Rule]:
    """By how much a version is worse than the others, how surely, and how often a shadow differs."""
    return Group(name="rollout", interval_s=interval_s, rules=(*_versions(interval_s), _disagreement()))


def rollout_alerts() -> Group[Alert]:
    """A version that is worse than the others, a shadow that differs, a model nobody has renewed."""
    return Group(
        name="rollout_alerts",
        rules=(
            Alert(
                name="CanaryWorse",
                expr=f"{EXCESS} > 0.01\nand {EXCESS_Z} > {ALARM_Z}",
                pending="5m",
                severity="warning",
                team="model",
                summary=f"{OF} has {PERCENT} more requests bad in {{{{ $labels.slo }}}} than the model's other "
                "versions over 30 minutes",
            ),
            Alert(
                name="ShadowDisagreement",
                expr=f"{DISAGREEMENT} > 0.05",
                pending="15m",
                severity="warning",
                team="model",
                summary=f"route {{{{ $labels.route }}}}: {PERCENT} of its shadow {{{{ $labels.target }}}} differs",
            ),
            Alert(
                name="ModelAge",
                expr=f"time() - max by (model) (model_created_timestamp_seconds) > {MAX_AGE_DAYS} * 86400",
                pending="1h",
                severity="info",
                team="model",
                summary="{{ $labels.model }}: its newest served version is {{ $value | humanizeDuration }} old, "
                f"more than {MAX_AGE_DAYS} days",
            ),
        ),
    )


def _versions(interval_s: int) -> Iterator[Rule]:
    for total, others, rate in ((_NUM, _NUM_OTHERS, VALID_BY_VERSION), (_BAD, _BAD_OTHERS, BAD_BY_VERSION)):
        yield Rule(record=total, expr=f'sum_over_time({rate}{{version!="other"}}[{RANGE}]) * {interval_s}')
        model = f"on (model, slo) group_left () sum by (model, slo) ({total})"
        yield Rule(record=others, expr=f"clamp_min(-({total} - {model}), 0)")
    enough = f"{_NUM} >= {MIN_REQUESTS} and {_NUM_OTHERS} >= {MIN_REQUESTS}"
    yield Rule(record=EXCESS, expr=f"{_BAD} / {_NUM} - {_BAD_OTHERS} / {_NUM_OTHERS}\nand ({enough})")
    mine, theirs = arcsine(_BAD, _NUM), arcsine(_BAD_OTHERS, _NUM_OTHERS)
    spread = f"sqrt(1 / {_NUM} + 1 / {_NUM_OTHERS})"
    yield Rule(record=EXCESS_Z, expr=f"2 * ({mine} - {theirs}) / {spread}\nand ({enough})")


def _disagreement() -> Rule:
    """The share of samples whose first class differs; where there are no classes, of copies beyond the tolerance."""

    def share(metric: str, bad: str, all_: str) -> str:
        count = f"sum by (route, target) (increase({metric}{{result=~"
        return f'{count}"{bad}"}}[{RANGE}]))\n/ ({count}"{all_}"}}[{RANGE}])) >= {MIN_COMPARED})'

    top1 = share("gateway_shadow_top1_total", "different", "same|different")
    copies = share("gateway_shadow_requests_total", "disagreed", "agreed|disagreed")
    classes = f"sum by (route, target) (increase(gateway_shadow_top1_total[{RANGE}])) > 0"
    return Rule(record=DISAGREEMENT, expr=f"{top1}\nor ({copies} unless {classes})")
