"""Service-level objectives: how much of what a model's contract allows to go wrong has gone wrong, and how fast.

Every objective is the contract's own. The gateways export it as gauges beside the counters it is held against, so one
rule file serves all models, and a new version brings its objective with it: nothing is written again, nothing reloaded.

Two objectives, told apart by the label `slo`:

- `availability`: a request is bad when we failed it (5xx) or turned it away (429). The client's own mistakes (other
  4xx) count neither for nor against us.
- `latency`: an answered request is bad when it took longer than its own version's threshold. The histogram has a bucket
  at each threshold, found by making the gauge's value into a label `le`.

The budget belongs to the model, not to the version: it must survive a release. So bad requests are counted against
each version's contract, added up, and held against the strictest objective served.

Burn rate: the share of bad requests over the share allowed; 1 spends exactly the budget of 30 days in 30 days. An alert
needs a long window (it matters) and a short one (it is still going on), and a minimum of bad requests in the long one:
among a few requests a ratio is an accident.
Source: Beyer et al., "The Site Reliability Workbook" (2018), chapter 5, multiwindow multi-burn-rate alerts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from monitoring.rule import SLOW_INTERVAL_S, Alert, Group, Rule, Severity, recent
from monitoring.traffic import BUCKETS

MIN_BAD = 10  # no alert for fewer bad requests than this
BUDGET = "30d"

THRESHOLD = "model_version_le:model_slo_latency_threshold_seconds:count"
VALID_BY_VERSION = "model_version_slo:gateway_requests:rate5m"
BAD_BY_VERSION = "model_version_slo:gateway_requests_bad:rate5m"
VALID = "model_slo:gateway_requests:rate5m"
BAD = "model_slo:gateway_requests_bad:rate5m"
_LONG_VALID = "model_slo:gateway_requests:increase5m"
_LONG_BAD = "model_slo:gateway_requests_bad:increase5m"
_ALLOWED = "model_slo:gateway_requests_bad:allowed_ratio"
_BUDGET_LEFT = f"model_slo:error_budget_left:ratio{BUDGET}"
_EXHAUSTION = "model_slo:error_budget_exhaustion:seconds6h"


@dataclass(frozen=True, kw_only=True, slots=True)
class Burn:
    """How fast the budget burns over a long and a short window for somebody to be told."""

    rate: float
    long: str
    short: str
    severity: Severity


BURNS = (
    Burn(rate=14.4, long="1h", short="5m", severity="critical"),  # 2 % of the budget in an hour
    Burn(rate=6, long="6h", short="30m", severity="critical"),  # 5 % in six hours
    Burn(rate=3, long="1d", short="2h", severity="warning"),  # 10 % in a day
    Burn(rate=1, long="3d", short="6h", severity="warning"),  # 10 % in three days
)
_SHORT_RANGES = ("5m", "30m", "1h", "2h", "6h")
_LONG_RANGES = ("1d", "3d", BUDGET)


def burn(range_: str) -> str:
    """Name of the recorded burn rate over a window."""
    return f"model_slo:gateway_requests_bad:burn_rate{range_}"


def objective_groups(interval_s: int = SLOW_INTERVAL_S) -> tuple[Group[Rule], ...]:
    """Burn rates over all windows, the budget left and when it will be gone.

    Days are added up from five-minute sums, evaluated every fifth time: read those by `last_over_time(...[11m])`.
    """
    short = (*_requests(), *(Rule(record=burn(range_), expr=_burn(range_)) for range_ in _SHORT_RANGES))
    return (
        Group(name="slo", interval_s=interval_s, rules=short),
        Group(name="slo_long", interval_s=5 * interval_s, rules=tuple(_long())),
    )


def objective_alerts(interval_s: int = SLOW_INTERVAL_S) -> Group[Alert]:
    """The burn alerts of both objectives; `interval_s` is that of the records."""
    what = {"availability": "failed or turned away", "latency": "slower than the contract's threshold"}
    return Group(
        name="slo_alerts",
        rules=tuple(_alert(slo, text, one, interval_s) for slo, text in what.items() for one in BURNS),
    )


def _requests() -> Iterator[Rule]:
    """Requests a second that count for each objective, and those of them that were bad."""
    by = "model, version"
    as_le = f'count_values by ({by}) ("le", model_slo_latency_threshold_seconds)'
    whole = f'label_replace({as_le}, "le", "$1.0", "le", "([0-9]+)")'  # exporters write 1.0, count_values 1
    yield Rule(record=THRESHOLD, expr=whole)
    answered, failed = (
        f'sum by ({by}) (rate(gateway_requests_total{{code=~"{codes}..|429"}}[5m]))' for codes in ("[235]", "5")
    )
    measured = f'sum by ({by}) ({BUCKETS}{{le="+Inf"}} and on ({by}) {THRESHOLD})'
    fast = f"sum by ({by}) ({BUCKETS} and on ({by}, le) {THRESHOLD})"
    for slo, valid, bad in (
        ("availability", answered, f"{failed}\nor {answered} * 0"),
        ("latency", f"{measured}\nand {fast}", f"{measured} - {fast}"),
    ):
        yield Rule(record=VALID_BY_VERSION, expr=valid, labels={"slo": slo})
        yield Rule(record=BAD_BY_VERSION, expr=bad, labels={"slo": slo})
        strictest = f"1 - max by (model) (model_slo_{slo}_objective_ratio)"
        yield Rule(record=_ALLOWED, expr=strictest, labels={"slo": slo})
    yield Rule(record=VALID, expr=f"sum by (model, slo) ({VALID_BY_VERSION})")
    yield Rule(record=BAD, expr=f"sum by (model, slo) ({BAD_BY_VERSION})")


def _burn(range_: str) -> str:
    if range_ == "5m":
        bad, valid = BAD, VALID
    elif range_ in _SHORT_RANGES:
        bad, valid = (f"sum_over_time({series}[{range_}])" for series in (BAD, VALID))
    else:
        bad, valid = (f"sum_over_time({series}[{range_}])" for series in (_LONG_BAD, _LONG_VALID))
    return f"{bad}\n/ ({valid} > 0)\n/ {_ALLOWED}"


def _long() -> Iterator[Rule]:
    for total, rate in ((_LONG_VALID, VALID), (_LONG_BAD, BAD)):
        yield Rule(record=total, expr=f"{rate} * 300")
    for range_ in _LONG_RANGES:
        yield Rule(record=burn(range_), expr=_burn(range_))
    yield Rule(record=_BUDGET_LEFT, expr=f"1 - {burn(BUDGET)}")
    seconds = f"clamp_min({_BUDGET_LEFT}, 0) * {30 * 86400}"
    yield Rule(record=_EXHAUSTION, expr=f"{seconds} / ({burn('6h')} > 0)")


def _alert(slo: str, text: str, one: Burn, interval_s: int) -> Alert:
    selector = f'{{slo="{slo}"}}'
    if one.long in _LONG_RANGES:
        long = recent(f"{burn(one.long)}{selector}")
        bad = f"sum_over_time({_LONG_BAD}{selector}[{one.long}])"
    else:
        long = f"{burn(one.long)}{selector}"
        bad = f"sum_over_time({BAD}{selector}[{one.long}]) * {interval_s}"
    return Alert(
        name=f"{slo.capitalize()}BudgetBurn",
        expr=f"{long} > {one.rate}\nand {burn(one.short)}{selector} > {one.rate}\nand {bad} >= {MIN_BAD}",
        severity=one.severity,
        team="platform",
        labels={"long": one.long, "short": one.short},
        summary=f"{{{{ $labels.model }}}}: requests {text} spend the error budget "
        f'{{{{ printf "%.1f" $value }}}} times too fast over {one.long}, and still over {one.short}; '
        f"the limit is {one.rate:g}",
    )
