"""Gates: what a model must be shown to reach before it is published.

A gate judges the unfavourable end of a metric's 95 % interval, so a model doesn't pass by luck with a small test set.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from contract.passport import Passport
from contract.schema import Evaluation
from training.comparison import Comparison
from training.error import GateFailed, ParityFailed

Requirement = Literal["better", "not worse"]
"""What a version must be shown to be beside the one that is served: `not worse` is not shown to be worse."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """Bounds of one metric: its lower end reaches `at_least`, its upper end stays within `at_most`."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        """A gate without a bound lets everything through, so it is a mistake."""
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"the gate on {self.metric} has no bound")

    def failure(self, evaluation: Evaluation) -> str | None:
        """Why the model doesn't pass, or None when it does; KeyError when the metric wasn't measured."""
        metric = evaluation.metric(self.metric)
        shown = f"{metric.name} is {metric.value:.4f} (95 % interval {metric.low:.4f} to {metric.high:.4f})"
        if self.at_least is not None and not metric.low >= self.at_least:
            return f"{shown}, expected a lower end of at least {self.at_least:g}"
        if self.at_most is not None and not metric.high <= self.at_most:
            return f"{shown}, expected an upper end of at most {self.at_most:g}"
        return None


def check(gates: Sequence[Gate], evaluation: Evaluation) -> None:
    """Raise GateFailed with every gate that the model doesn't pass."""
    failures = [failure for gate in gates if (failure := gate.failure(evaluation)) is not None]
    if failures:
        raise GateFailed(f"not good enough on {evaluation.dataset}: {'; '.join(failures)}; nothing was published")


def check_comparison(comparison: Comparison | None, requirement: Requirement | None) -> None:
    """Raise GateFailed when the comparison doesn't show what is required; None is a first version, and passes."""
    if comparison is None or requirement is None:
        return
    passing = {"better": ("better",), "not worse": ("better", "same")}[requirement]
    if comparison.verdict not in passing:
        raise GateFailed(f"a version must be {requirement}, and this one is {comparison}; nothing was published")


def check_engine(passport: Passport) -> None:
    """Raise ParityFailed when the engine was measured beside the graph and strays too far from it."""
    if passport.triton_loadable and passport.max_error is not None and (doubt := passport.doubt()):
        raise ParityFailed(f"{doubt}; nothing was published")
