"""Gates: what a model must be shown to reach before it is published.

A gate judges the unfavourable end of a metric's 95 % interval, so a model doesn't pass by luck with a small test set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from contract.passport import Passport
from contract.schema import Evaluation
from training.error import GateFailed, ParityFailed

# Largest error of a compiled engine against torch; INT8 is judged by the task's metric instead.
ENGINE_TOLERANCE = {"FP32": 1e-4, "FP16": 5e-3}


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


def check_engine(passport: Passport) -> None:
    """Raise ParityFailed when the engine was measured against the graph and strays too far from it."""
    tolerance = ENGINE_TOLERANCE.get(passport.precision)
    if passport.max_error is None or tolerance is None or passport.max_error <= tolerance:
        return
    raise ParityFailed(
        f"{passport.engine}: expected outputs within {tolerance:g} of the graph's for {passport.precision}, "
        f"got an error of {passport.max_error:.2e}; nothing was published"
    )
