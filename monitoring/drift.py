"""Drift as arithmetic over counters: the population stability index of every feature over the last hour.

With p the share of a bin in current traffic (N samples) and q its share in the reference (M samples), both smoothed
with half a count in each of the k bins that live,

    PSI = sum over bins of (p - q) ln(p / q)

which is the symmetric Kullback-Leibler divergence. When nothing has drifted its expectation isn't 0 but about
(k - 1) (1/N + 1/M), so a raw PSI of 0.2 means nothing at N = 100. The *unbiased* PSI has that much taken off: it
scatters around 0 without drift, with a standard deviation of about sqrt(2 (k - 1)) (1/N + 1/M).
Sources: Yurdakul, "Statistical Properties of Population Stability Index" (2018), for the expectation and the variance;
Haldane (1956) for the half count.

Which bins: `missing` is a rate of its own and no part of the shape. `other` counts where the reference has it (there
it holds the categories that were too rare for a bin), and is an unseen value where the reference has none. The two
cells of an outermost bin, one of them with `tail="1"`, are one bin here. Bins that neither the reference nor the
traffic has don't live.

The predicted labels are a feature like the others, named `prediction`; their counts come from
`inference_prediction_total`.
"""

from contract.profile import MISSING, OTHER, PREDICTION
from monitoring.rule import Group, Rule

WINDOW = "1h"
INTERVAL_S = 60
MIN_SAMPLES = 200  # below these, PSI is noise: no value is better than a frightening one
MIN_SAMPLES_PER_BIN = 10

_FEATURE = "model, version, feature"
_BIN = f"{_FEATURE}, bin"
_EACH = f"on ({_FEATURE}) group_left ()"

_REFERENCE_RATIO = "model_version_feature_bin:inference_feature_reference:ratio"
_REFERENCE_COUNT = "model_version_feature_bin:inference_feature_reference:count"
_REFERENCE_SAMPLES = "model_version_feature:inference_feature_reference:count"
_PREDICTIONS = f"model_version_label:inference_prediction:increase{WINDOW}"
_COUNT = f"model_version_feature_bin:inference_feature_bin:increase{WINDOW}"
_SAMPLES = f"model_version_feature:inference_feature_bin:increase{WINDOW}"
_NUM_BINS = f"model_version_feature:inference_feature_bin:count_increase{WINDOW}"
_PSI = f"model_version_feature:inference_feature_bin:psi_increase{WINDOW}"
_UNBIASED_PSI = f"model_version_feature:inference_feature_bin:psi_unbiased_increase{WINDOW}"


def drift_group(interval_s: int = INTERVAL_S) -> Group:
    """PSI, unbiased PSI and number of samples of every feature. Replicas add up; restarts are harmless."""
    return Group(
        name=f"drift_{WINDOW}",
        interval_s=interval_s,
        rules=(
            Rule(record=_REFERENCE_RATIO, expr=_reference_ratio()),
            Rule(record=_REFERENCE_COUNT, expr=_reference_count()),
            Rule(record=_REFERENCE_SAMPLES, expr=f"sum by ({_FEATURE}) ({_REFERENCE_COUNT})"),
            Rule(
                record=_PREDICTIONS,
                expr=f"sum by (model, version, label) (increase(inference_prediction_total[{WINDOW}]))",
            ),
            Rule(record=_COUNT, expr=_count()),
            Rule(record=_SAMPLES, expr=f"sum by ({_FEATURE}) ({_COUNT})"),
            Rule(record=_NUM_BINS, expr=f"count by ({_FEATURE}) ({_COUNT})"),
            Rule(record=_PSI, expr=_psi()),
            Rule(
                record=_UNBIASED_PSI,
                expr=f"{_PSI}\n- ({_NUM_BINS} - 1) * (1 / {_SAMPLES} + 1 / {_REFERENCE_SAMPLES})",
            ),
        ),
    )


def _reference_ratio() -> str:
    """Share of each bin as the profile has it; every replica exports the same, so any of them will do."""
    metric = "inference_feature_reference_ratio"
    return (
        f'sum by ({_BIN}) (max by ({_BIN}, tail) ({metric}{{bin!~"{MISSING}|{OTHER}"}}))\n'
        f'or max by ({_BIN}) ({metric}{{bin="{OTHER}"}}) > 0'
    )


def _reference_count() -> str:
    """Reference samples in each bin.

    An ordered feature's ratios are shares of the values present, a categorical feature's are shares of all rows. Both
    come out right when the ratios are made to add up to 1 and multiplied by the number of values present.
    """
    samples = f"max by ({_FEATURE}) (inference_feature_reference_samples)"
    missing = f'max by ({_FEATURE}) (inference_feature_reference_ratio{{bin="{MISSING}"}})'
    return (
        f"{_REFERENCE_RATIO}\n"
        f"/ {_EACH} sum by ({_FEATURE}) ({_REFERENCE_RATIO})\n"
        f"* {_EACH} ({samples} * (1 - ({missing} or {samples} * 0)))"
    )


def _count() -> str:
    """Samples in each bin that lives: those counted in a bin of the reference, and 0 where it expects some."""
    observed = f"sum by ({_BIN}) (increase(inference_feature_bin_total[{WINDOW}]))"
    as_bin = f'label_replace({_PREDICTIONS}, "bin", "$1", "label", "(.*)")'
    predicted = f'sum by ({_BIN}) (label_replace({as_bin}, "feature", "{PREDICTION}", "", ""))'
    return f"({observed} or {predicted}) > 0\nand {_REFERENCE_COUNT}\nor ({_REFERENCE_COUNT} > 0) * 0"


def _psi() -> str:
    p, q = _smoothed(_COUNT, _SAMPLES), _smoothed(_REFERENCE_COUNT, _REFERENCE_SAMPLES)
    enough = f"{_SAMPLES} >= {MIN_SAMPLES} and {_SAMPLES} >= {MIN_SAMPLES_PER_BIN} * {_NUM_BINS}"
    return f"sum by ({_FEATURE}) (\n  ({p} - {q})\n  * ln({p} / {q})\n)\nand ({enough})"


def _smoothed(count: str, total: str) -> str:
    return f"(({count} + 0.5) / {_EACH} ({total} + 0.5 * {_NUM_BINS}))"
