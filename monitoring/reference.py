"""What traffic is compared with: the reference profile of each version, as the gateways export it, made fit for use.

Which bins make the shape of a feature: `missing` is a rate of its own and no part of it. `other` counts where the
reference has it (there it holds the categories that were too rare for a bin), and is an unseen value where it has none.
The two cells of an outermost bin, one of them with `tail="1"`, are one bin here. Only ordered features have such cells,
and that is how the rules know them.

Scores: the centred rank of a bin among the reference (its mid-rank minus one half) for location, its square for scale,
each made to have mean 0 and variance 1 under the reference. They are worked out here once for all windows rather than
exported: the ratios hold all that they need.
"""

from contract.profile import MISSING, OTHER
from monitoring.rule import Group, Rule

FEATURE = "model, version, feature"
BIN = f"{FEATURE}, bin"
EACH = f"on ({FEATURE}) group_left () "
UNSEEN = f"{MISSING}|{OTHER}"

_EXPORTED = "inference_feature_reference_ratio"
RATIO = "model_version_feature_bin:inference_feature_reference:ratio"
SAMPLES = "model_version_feature:inference_feature_reference:count"
ALL_SAMPLES = "model_version_feature:inference_feature_reference_samples:max"
TAIL_RATIO = "model_version_feature:inference_feature_reference_tail:ratio"
CDF = "model_version_feature_bin:inference_feature_reference_cumulative:ratio"
_RANK = "model_version_feature_bin:inference_feature_reference:rank"
SCORE = "model_version_feature_bin_test:inference_feature_reference:score"

_CELLS = tuple(f"{k:02d}" for k in range(20))
_DEGENERATE = 1e-6  # a variance of scores that is nothing but rounding; a real one is above 1e-4


def reference_group(interval_s: int) -> Group[Rule]:
    """Shares, sample counts, cumulative shares and scores of every feature's reference."""
    return Group(
        name="drift_reference",
        interval_s=interval_s,
        rules=(
            Rule(record=RATIO, expr=_ratio()),
            Rule(record=ALL_SAMPLES, expr=f"max by ({FEATURE}) (inference_feature_reference_samples)"),
            Rule(record=SAMPLES, expr=_samples()),
            Rule(
                record=TAIL_RATIO,
                expr=f'sum by ({FEATURE}) (max by ({BIN}, tail) ({_EXPORTED}{{tail="1"}}))',
            ),
            Rule(record=CDF, expr=f"({cumulative(RATIO)})\nand on ({FEATURE}) {TAIL_RATIO}"),
            Rule(record=_RANK, expr=f"{CDF} - {RATIO} / 2 - 0.5"),
            Rule(record=SCORE, expr=_location(), labels={"test": "location"}),
            Rule(record=SCORE, expr=_scale(), labels={"test": "scale"}),
        ),
    )


def cumulative(series: str) -> str:
    """The sum of an ordered feature's bins up to each bin, under its name: a branch a bin, for PromQL has no scan."""
    return "\nor ".join(
        f'label_replace(sum by ({FEATURE}) ({series}{{bin=~"{"|".join(_CELLS[: k + 1])}"}}), "bin", "{cell}", "", "")'
        for k, cell in enumerate(_CELLS)
    )


def _ratio() -> str:
    """Share of each bin of the shape. Every replica exports the same, so any of them will do.

    A categorical feature's ratios are shares of all rows: so they are made to add up to 1 over the shape.
    """
    cells = f'sum by ({BIN}) (max by ({BIN}, tail) ({_EXPORTED}{{bin!~"{UNSEEN}"}}))'
    shape = f'({cells} or max by ({BIN}) ({_EXPORTED}{{bin="{OTHER}"}}) > 0)'
    return f"{shape}\n/ {EACH}sum by ({FEATURE}) {shape}"


def _samples() -> str:
    """Reference samples in the shape, which are those with a value."""
    missing = f'max by ({FEATURE}) ({_EXPORTED}{{bin="{MISSING}"}})'
    return f"{ALL_SAMPLES} * (1 - ({missing} or {ALL_SAMPLES} * 0))"


def _moment(power: int) -> str:
    return f"sum by ({FEATURE}) ({RATIO} * {_RANK} ^ {power})"


def _location() -> str:
    return f"{_RANK}\n/ {EACH}sqrt({_moment(2)} > {_DEGENERATE})"


def _scale() -> str:
    return f"({_RANK} ^ 2 - {EACH}{_moment(2)})\n/ {EACH}sqrt({_moment(4)} - {_moment(2)} ^ 2 > {_DEGENERATE})"
