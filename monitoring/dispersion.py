"""How much more the counts of bins vary than those of independent draws would: requests come in sessions.

Measured on traffic as it is, without a reference: the shares of two successive groups of five minutes are held against
each other by a two-sample chi-square, whose expectation is its degrees of freedom times the dispersion. Its variances
come from the shares of the last day. A drift, or a rhythm of the day, moves both groups alike and hardly shows;
sessions longer than five minutes do so only in part. A week of them is kept as a record, so it lives where the
counters do, and begins with the first ten minutes: not their mean, for a sudden shift makes one of them hundreds of
times larger, but a quantile. A chi-square's mean lies at 0.54 to 0.68 by its degrees of freedom, so 0.65 is a tenth off
at most, and too large for all but features of two bins.
"""

from monitoring.drift import FIVE_MINUTES, MEASURED_DISPERSION, WINDOWS
from monitoring.reference import BIN, EACH, FEATURE
from monitoring.rule import SLOW_INTERVAL_S, Group, Rule

RANGE = "7d"
QUANTILE = 0.65
GROUP = "model_version_feature_bin:inference_feature_bin:increase5m"
GROUP_SAMPLES = "model_version_feature:inference_feature_bin:increase5m"
SUCCESSIVE = "model_version_feature:inference_feature_bin:successive_dispersion_increase5m"


def dispersion_group(interval_s: int = SLOW_INTERVAL_S) -> Group[Rule]:
    """Dispersion of each feature over the last week, never below 1; it is evaluated every fifth time."""
    n, num, day = GROUP, GROUP_SAMPLES, WINDOWS[-1]
    share = f"(({day.count} > 0) / {EACH}{day.record()})"
    shift = f"({n} / {EACH}({num} > 0) - {n} offset 5m / {EACH}({num} offset 5m > 0))"
    chi_square = f"sum by ({FEATURE}) ({shift} ^ 2 / {share})"
    ratio = f"{chi_square}\n/ (1 / {num} + 1 / {num} offset 5m)\n/ (count by ({FEATURE}) ({share}) - 1 > 0)"
    week = f"quantile_over_time({QUANTILE}, {SUCCESSIVE}[{RANGE}])"
    return Group(
        name="drift_dispersion",
        interval_s=5 * interval_s,
        rules=(
            Rule(record=GROUP, expr=f'sum by ({BIN}) ({FIVE_MINUTES}{{bin!="missing"}})'),
            Rule(record=GROUP_SAMPLES, expr=f"sum by ({FEATURE}) ({GROUP})"),
            Rule(record=SUCCESSIVE, expr=ratio),
            Rule(record=MEASURED_DISPERSION, expr=f"clamp_min({week}, 1)"),
        ),
    )
