"""Learning to go on: at every position of a text, which token comes next.

Label smoothing: Szegedy et al. 2015, arXiv 1512.00567, section 7; for translation Vaswani et al. 2017, section 5.4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from numpy.typing import NDArray
from torch import Tensor

from contract.schema import TensorSpec

NOTHING = -1  # the target of a position behind a text's end, which isn't judged


@dataclass(frozen=True, kw_only=True, slots=True)
class NextToken:
    """Cross entropy over logits `[N, T, num_tokens]` with targets `[N, T]`; the score is the share of right tokens."""

    num_tokens: int
    label_smoothing: float = 0.0
    score_name: str = "right tokens"

    def __post_init__(self) -> None:
        """Refuse a smoothing that leaves nothing of the label."""
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing: expected from 0 to below 1, got {self.label_smoothing}")

    def check(self, outputs: Sequence[TensorSpec], targets: NDArray[Any], *, whole: bool) -> None:
        """Targets are tokens, or nothing, and every sample has some."""
        if targets.dtype.kind not in "iu" or targets.ndim != 2:
            raise ValueError(f"expected token ids for each position, got {targets.dtype} {list(targets.shape)}")
        low, high = int(targets.min()), int(targets.max())
        if low < NOTHING or high >= self.num_tokens:
            raise ValueError(f"expected tokens from 0 to {self.num_tokens - 1}, or {NOTHING}, got {low} to {high}")
        if not (targets != NOTHING).any(axis=1).all():
            raise ValueError("expected at least one token in every sample")

    def loss(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Mean cross entropy of a token in nats."""
        logits, tokens = outputs[0].float().flatten(0, 1), targets.flatten()
        return F.cross_entropy(logits, tokens, ignore_index=NOTHING, label_smoothing=self.label_smoothing)

    def score(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Share of tokens with the highest logit."""
        judged = targets != NOTHING
        return (outputs[0].argmax(dim=-1) == targets)[judged].float().mean()
