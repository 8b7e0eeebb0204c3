"""What a network is trained for: the loss that is minimised, and the score that a person watches.

Each is a frozen dataclass, so that its numbers belong to the run's identity.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from torch import Tensor


class Objective(Protocol):
    """Judges a batch of outputs, in the contract's order. Both answers are scalars, means over the batch."""

    @property
    def score_name(self) -> str:
        """What the score is called on the screen."""

    def loss(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """What is minimised; differentiable."""

    def score(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """What is watched; larger is better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Classification:
    """Cross entropy over logits `[N, K]` with targets `[N]`; the score is the accuracy.

    `label_smoothing` above 0 gains a little accuracy and costs calibration: confidences are watched for drift, so
    the default is 0.
    """

    label_smoothing: float = 0.0
    score_name: str = "accuracy"

    def loss(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Mean cross entropy in nats."""
        return F.cross_entropy(outputs[0], targets, label_smoothing=self.label_smoothing)

    def score(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Share of samples whose highest logit is their target's."""
        return (outputs[0].argmax(dim=1) == targets).float().mean()
