"""Champion and challenger: whether a version is better than the one that is served, on the same samples.

Both answer the same test samples, and each sample's two answers are held against each other: so what is hard about the
samples cancels out, and a far smaller difference can be told from chance than by two intervals side by side.
How much is chance, `training.interval` says.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from contract.postprocess import interpret
from contract.schema import ClassificationPostprocess, Postprocess
from contract.tensor import Tensors
from training.evaluation import Measure, Measures, measure
from training.interval import difference, mcnemar, share_difference

Verdict = Literal["better", "same", "worse"]

LEVEL = 0.05  # how often two equal models may be called different


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One metric of both, the 95 % interval of challenger minus champion, and how likely chance alone does as much."""

    metric: str
    champion: float
    challenger: float
    low: float
    high: float
    p_value: float
    verdict: Verdict
    num_samples: int
    is_share: bool

    @property
    def value(self) -> float:
        """Challenger minus champion."""
        return self.challenger - self.champion


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """A model's outputs `[N, ...]` by name, and what they mean."""

    postprocess: Postprocess
    outputs: Tensors

    def of(self, chosen: NDArray[np.bool_]) -> "Answers":
        """Those to the chosen samples."""
        outputs = {name: output[chosen] for name, output in self.outputs.items()}
        return replace(self, outputs=outputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A challenger held against a published version; `remarks` say what couldn't be compared, and why.

    Without differences nothing could. The first metric's verdict is the comparison's.
    """

    champion: int
    num_samples: int = 0
    num_disagreements: int | None = None
    differences: tuple[Difference, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict | None:
        """What the metric that decides says of the challenger; None when it couldn't be compared."""
        return self.differences[0].verdict if self.differences else None

    def with_remark(self, remark: str) -> "Comparison":
        """The same, with one more thing to be said."""
        return replace(self, remarks=(*self.remarks, remark))

    def document(self) -> dict[str, Any]:
        """All of it in JSON's types."""
        return {**asdict(self), "verdict": self.verdict}

    def __str__(self) -> str:
        if not self.differences:
            return f"not compared with version {self.champion}: {'; '.join(self.remarks)}"
        first = self.differences[0]
        told = f"{first.verdict} than version {self.champion}"
        if first.verdict == "same":
            told = f"the same as version {self.champion}, as far as {self.num_samples:,} samples can tell"
        said = f"{told}: {first.metric} {first.value:+.4f} (95 % interval {first.low:+.4f} to {first.high:+.4f})"
        if self.num_disagreements is not None:
            said += f"; {self.num_disagreements:,} of {self.num_samples:,} samples answered otherwise"
        return "; ".join((said, *self.remarks))


def compare(
    version: int,
    theirs: Answers,
    ours: Answers,
    targets: NDArray[Any],
    *,
    meant: Postprocess,
    own: Measures | None = None,
) -> Comparison:
    """Compare a published version's answers (`theirs`) with a challenger's (`ours`), to the same N samples.

    `meant` says what the targets mean. The samples are compared whose label both know.
    """
    remarks: tuple[str, ...] = ()
    their_targets, our_targets = targets, targets
    if isinstance(meant, ClassificationPostprocess) and targets.dtype.names is None:
        their_targets, our_targets = (_translated(targets, meant, side.postprocess) for side in (theirs, ours))
        known = (their_targets >= 0) & (our_targets >= 0)
        remarks = _on_labels(theirs.postprocess, ours.postprocess, num_left_out=int((~known).sum()))
        if not known.any():
            return Comparison(champion=version, remarks=remarks)
        theirs, ours = theirs.of(known), ours.of(known)
        their_targets, our_targets = their_targets[known], our_targets[known]
    their_measures = {m.metric.name: m for m in measure(theirs.postprocess, theirs.outputs, their_targets, own)}
    pairs = [
        (their_measures[m.metric.name], m)
        for m in measure(ours.postprocess, ours.outputs, our_targets, own)
        if m.metric.name in their_measures
    ]
    return Comparison(
        champion=version,
        num_samples=len(our_targets),
        num_disagreements=_disagreements(theirs, ours),
        differences=tuple(_differences(pairs)),
        remarks=remarks,
    )


def _translated(targets: NDArray[Any], meant: Postprocess, known: Postprocess) -> NDArray[np.intp]:
    """Indices of labels as a model numbers them, -1 for a label that it doesn't know."""
    assert isinstance(meant, ClassificationPostprocess)
    assert isinstance(known, ClassificationPostprocess)
    index = {label: i for i, label in enumerate(known.labels)}
    return np.asarray(np.array([index.get(label, -1) for label in meant.labels])[targets])


def _on_labels(theirs: Postprocess, ours: Postprocess, *, num_left_out: int) -> tuple[str, ...]:
    assert isinstance(theirs, ClassificationPostprocess)
    assert isinstance(ours, ClassificationPostprocess)
    apart = sorted(set(theirs.labels) ^ set(ours.labels))
    if not apart:
        return ()
    return (f"only one of the two knows {', '.join(apart):.200}; {num_left_out:,} samples are left out for that",)


def _differences(pairs: Sequence[tuple[Measure, Measure]]) -> list[Difference]:
    """Of metrics that come one a label, each has to be surer: ten of them have ten chances to differ by chance."""
    families = Counter(_family(ours) for _, ours in pairs)
    return [_difference(theirs, ours, LEVEL / families[_family(ours)]) for theirs, ours in pairs]


def _family(measure: Measure) -> str:
    return measure.metric.name.partition(".")[0]


def _difference(theirs: Measure, ours: Measure, level: float) -> Difference:
    before, after = theirs.metric, ours.metric
    is_share = ours.samples.dtype == np.bool_
    if is_share and ours.block == 1:
        gained, lost = int((ours.samples & ~theirs.samples).sum()), int((theirs.samples & ~ours.samples).sum())
        low, high = share_difference(gained, lost, len(ours.samples))
        p_value = mcnemar(gained, lost)
    else:
        low, high, p_value = difference(ours.samples, theirs.samples, ours.statistic, block=ours.block)
    verdict: Verdict = "same"
    if p_value < level:
        verdict = "better" if (after.value > before.value) == ours.larger_is_better else "worse"
    return Difference(
        metric=after.name,
        champion=before.value,
        challenger=after.value,
        low=min(low, after.value - before.value),
        high=max(high, after.value - before.value),
        p_value=p_value,
        verdict=verdict,
        num_samples=len(ours.samples),
        is_share=is_share,
    )


def _disagreements(theirs: Answers, ours: Answers) -> int | None:
    """Samples that the two give different labels; None for answers that are no labels."""
    said = []
    for side in (theirs, ours):
        if not isinstance(side.postprocess, ClassificationPostprocess):
            return None
        probabilities = interpret(side.postprocess, side.outputs)
        assert probabilities is not None
        said.append(np.array(side.postprocess.labels)[probabilities.argmax(axis=1)])
    return int((said[0] != said[1]).sum())
