"""What a network is trained for: the loss that is minimised, and the score that a person watches.

Each is a frozen dataclass, so that its numbers belong to the run's identity.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from numpy.typing import NDArray
from torch import Tensor

from contract.schema import TensorSpec

_TINY = 1e-5  # what a sum of shares in FP32 may be off by


class Objective(Protocol):
    """Judges a batch of outputs, in the contract's order. Both answers are scalars, means over the batch.

    The targets are a Tensor `[N, ...]`, or Tensors by name where a sample has several. A kind whose means are over
    something else than samples registers how many that are with `training.share.num_judged`.
    """

    @property
    def score_name(self) -> str:
        """What the score is called on the screen."""

    def check(self, outputs: Sequence[TensorSpec], targets: NDArray[Any], *, whole: bool) -> None:
        """Raise ValueError for targets `[M, ...]` that outputs of this form can't be judged by.

        `whole` is set for a training split that wasn't cut short: every class has samples there.
        """

    def loss(self, outputs: Sequence[Tensor], targets: Any) -> Tensor:
        """What is minimised; differentiable."""

    def score(self, outputs: Sequence[Tensor], targets: Any) -> Tensor:
        """What is watched; larger is better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Classification:
    """Cross entropy over logits `[N, K]` with targets `[N]`; the score is the accuracy.

    Targets may be shares `[N, K]` of every label, where people don't agree on one: Peterson et al. 2019, "Human
    uncertainty makes classification more robust", arXiv 1908.07086. The score takes the largest for the label.
    `label_smoothing` above 0 gains a little accuracy and costs calibration: confidences are watched for drift, so
    the default is 0. Source: Szegedy et al. 2015, arXiv 1512.00567, section 7.
    """

    label_smoothing: float = 0.0
    score_name: str = "accuracy"

    def __post_init__(self) -> None:
        """Refuse a smoothing that leaves nothing of the label."""
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing: expected from 0 to below 1, got {self.label_smoothing}")

    def check(self, outputs: Sequence[TensorSpec], targets: NDArray[Any], *, whole: bool) -> None:
        """Targets are whole numbers below K, or K shares that add up to 1, and each label is there."""
        num_classes = outputs[0].shape[-1]
        if targets.dtype.kind == "f" and targets.ndim == 2:
            if targets.shape[1] != num_classes:
                raise ValueError(f"expected {num_classes} shares for each sample, got {targets.shape[1]}")
            # NaN is neither.
            wrong = np.flatnonzero(~((targets >= 0).all(axis=1) & (np.abs(targets.sum(axis=1) - 1) < _TINY)))
            if wrong.size:
                raise ValueError(f"expected shares that add up to 1, got {targets[wrong[0]]} at sample {wrong[0]}")
            targets = targets.argmax(axis=1)
        if targets.dtype.kind not in "iu" or targets.ndim != 1:
            raise ValueError(f"expected a label's index for each sample, got {targets.dtype} {list(targets.shape)}")
        wrong = np.flatnonzero((targets < 0) | (targets >= num_classes))
        if wrong.size:
            raise ValueError(
                f"expected labels from 0 to {num_classes - 1}, got {targets[wrong[0]]} at sample {wrong[0]}"
                f" ({wrong.size} in all): correct the labels, or widen the network's output"
            )
        missing = np.flatnonzero(np.bincount(targets, minlength=num_classes) == 0)
        if whole and missing.size:
            raise ValueError(
                f"expected samples of every class, got none of {', '.join(map(str, missing[:10]))}: "
                "a network can't learn what it never sees"
            )

    def loss(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Mean cross entropy in nats."""
        return F.cross_entropy(outputs[0], targets, label_smoothing=self.label_smoothing)

    def score(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Share of samples whose highest logit is their target's."""
        labels = targets.argmax(dim=1) if targets.ndim == 2 else targets
        return (outputs[0].argmax(dim=1) == labels).float().mean()


@dataclass(frozen=True, kw_only=True, slots=True)
class Regression:
    """Outputs `[N, ...]` near targets of the same shape; the score is the mean absolute error, negated.

    `huber` is squared up to an error of 1 and absolute beyond: single wild targets don't rule the rest.
    """

    error: Literal["squared", "absolute", "huber"] = "squared"
    score_name: str = "minus mean error"

    def check(self, outputs: Sequence[TensorSpec], targets: NDArray[Any], *, whole: bool) -> None:
        """Targets are finite numbers."""
        if targets.dtype.kind != "f" or not np.isfinite(targets).all():
            raise ValueError(f"expected finite floating-point targets, got {targets.dtype} with NaN or infinity in it")

    def loss(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Mean error of the kind."""
        measure = {"squared": F.mse_loss, "absolute": F.l1_loss, "huber": F.smooth_l1_loss}[self.error]
        return measure(outputs[0].float(), targets.reshape(outputs[0].shape).float())

    def score(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Mean absolute error, negated."""
        return -F.l1_loss(outputs[0].float(), targets.reshape(outputs[0].shape).float())


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One task of several: which outputs, by place, are judged by which target, and how much that counts."""

    objective: Objective
    target: str
    outputs: tuple[int, ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a task that counts for nothing or less."""
        if self.weight <= 0:
            raise ValueError(f"weight of {self.target}: expected above 0, got {self.weight}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiTask:
    """Several heads on one body: the weighted sum of the parts' losses, the mean of their scores."""

    parts: tuple[Part, ...]
    score_name: str = "mean score"

    def check(self, outputs: Sequence[TensorSpec], targets: NDArray[Any], *, whole: bool) -> None:
        """Each part's targets are there and fit it."""
        named = targets.dtype.names or ()
        for part in self.parts:
            if part.target not in named:
                raise ValueError(f"expected a target {part.target!r}, got {', '.join(named) or 'one without a name'}")
            try:
                part.objective.check([outputs[i] for i in part.outputs], targets[part.target], whole=whole)
            except ValueError as exc:
                raise ValueError(f"target {part.target!r}: {exc}") from exc

    def loss(self, outputs: Sequence[Tensor], targets: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the parts' losses."""
        losses = [p.weight * p.objective.loss([outputs[i] for i in p.outputs], targets[p.target]) for p in self.parts]
        return torch.stack(losses).sum()

    def score(self, outputs: Sequence[Tensor], targets: dict[str, Tensor]) -> Tensor:
        """Mean of the parts' scores."""
        scores = [p.objective.score([outputs[i] for i in p.outputs], targets[p.target]) for p in self.parts]
        return torch.stack(scores).mean()
