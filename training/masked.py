"""Learning a language by what is hidden from it: some tokens of a text, or whole words or names at once.

BERT hides tokens: Devlin et al. 2018, arXiv 1810.04805, section 3.1. ERNIE hides what belongs together, so that a name
can't be guessed from its own other half: Sun et al. 2019, arXiv 1904.09223, section 3.2. Which tokens belong together
is given as units: `[N, L]`, equal numbers from 1 for tokens of one unit, 0 for what is never hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from numpy.typing import NDArray
from torch import Tensor

from contract.schema import TensorSpec
from contract.tensor import Tensors
from training.data import Dataset, Split, digest
from training.evaluation import Measure, resampled
from training.next_token import NOTHING

HIDDEN_RATIO = 0.15  # of a text's tokens; Devlin et al. 2018


@dataclass(frozen=True, kw_only=True, slots=True)
class Hide:
    """Hides units of ids and units `[N, L]`, anew every time: answers the ids, and the positions `[N, K]`.

    Of the units chosen `mask_ratio` are masked, `random_ratio` become any other tokens, and the rest stays, so that the
    network can't take what isn't masked for right.
    """

    num_tokens: int
    mask: int
    num_special: int
    mask_ratio: float = 0.8
    random_ratio: float = 0.1

    def __call__(self, inputs: Sequence[Tensor], /) -> Sequence[Tensor]:
        """Hide some of a batch's tokens."""
        ids_NL, units_NL = inputs
        position_NK = chosen(units_NL)
        draw_NL = torch.rand(len(units_NL), units_NL.shape[1] + 1).to(ids_NL.device).gather(1, units_NL.long())
        other_NL = torch.randint(self.num_special, self.num_tokens, ids_NL.shape, dtype=ids_NL.dtype).to(ids_NL.device)
        shown_NL = torch.where(draw_NL < self.mask_ratio + self.random_ratio, other_NL, ids_NL)
        shown_NL = shown_NL.masked_fill(draw_NL < self.mask_ratio, self.mask)
        return torch.where(is_chosen(position_NK, ids_NL.shape[1]), shown_NL, ids_NL), position_NK


@dataclass(frozen=True, kw_only=True, slots=True)
class Forget:
    """Masks some tokens of the one input `[N, L]` while it is learned what a text is: no single word may decide it."""

    ratio: float
    mask: int
    num_special: int

    def __post_init__(self) -> None:
        """Refuse a ratio that leaves nothing."""
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio: expected from 0 to below 1, got {self.ratio}")

    def __call__(self, inputs: Sequence[Tensor], /) -> Sequence[Tensor]:
        """Mask tokens that aren't special."""
        (ids_NL,) = inputs
        forgotten_NL = (torch.rand(ids_NL.shape) < self.ratio).to(ids_NL.device) & (ids_NL >= self.num_special)
        return (ids_NL.masked_fill(forgotten_NL, self.mask),)


@dataclass(frozen=True, kw_only=True, slots=True)
class HiddenTokens:
    """Cross entropy of logits `[N, K, num_tokens]` at positions `[N, K]`, with targets `[N, L]`: the text itself."""

    num_tokens: int
    score_name: str = "found tokens"

    def check(self, outputs: Sequence[TensorSpec], targets: NDArray[Any], *, whole: bool) -> None:
        """Targets are tokens, or nothing where nothing is hidden."""
        if targets.dtype.kind not in "iu" or targets.ndim != 2:
            raise ValueError(f"expected token ids for each position, got {targets.dtype} {list(targets.shape)}")
        low, high = int(targets.min()), int(targets.max())
        if low < NOTHING or high >= self.num_tokens:
            raise ValueError(f"expected tokens from 0 to {self.num_tokens - 1}, or {NOTHING}, got {low} to {high}")

    def loss(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Mean cross entropy of a hidden token in nats."""
        logits_NKV, position_NK = outputs
        return F.cross_entropy(
            logits_NKV.float().flatten(0, 1), _at(targets, position_NK).flatten(), ignore_index=NOTHING
        )

    def score(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Share of hidden tokens that are found."""
        logits_NKV, position_NK = outputs
        target_NK = _at(targets, position_NK)
        judged_NK = target_NK != NOTHING
        return (logits_NKV.argmax(dim=-1) == target_NK)[judged_NK].float().mean()


def num_hidden(length: int) -> int:
    """The most positions that are hidden in a text of so many: more than the ratio, for units stay whole."""
    return length // 4


def chosen(units_NL: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Positions `[N, K]` of randomly chosen units, -1 where there are fewer: `HIDDEN_RATIO` of the text, at least one.

    A unit that begins within the ratio is hidden whole; K is `num_hidden`.
    """
    length = units_NL.shape[1]
    draw_NL = torch.rand(units_NL.shape[0], length + 1, generator=generator).to(units_NL.device)
    score_NL = draw_NL.gather(1, units_NL.long()).masked_fill(units_NL == 0, 2.0)
    score_NL, position_NL = score_NL.sort(dim=1, stable=True)
    begins_NL = F.pad(score_NL[:, 1:] != score_NL[:, :-1], (1, 0), value=True)
    rank_L = torch.arange(length, device=units_NL.device)
    begin_NL = (rank_L * begins_NL).cummax(dim=1).values
    budget_N = ((units_NL > 0).sum(dim=1, keepdim=True) * HIDDEN_RATIO).round().clamp(min=1)
    hidden_NL = (begin_NL < budget_N) & (score_NL < 2.0)
    return position_NL.masked_fill(~hidden_NL, -1)[:, : num_hidden(length)]


def is_chosen(position_NK: Tensor, length: int) -> Tensor:
    """Bool `[N, L]`: which positions are among those."""
    found_NL = torch.zeros(len(position_NK), length + 1, dtype=torch.bool, device=position_NK.device)
    return found_NL.scatter(1, position_NK + 1, True)[:, 1:]


def lesson(ids_ML: NDArray[Any], units_ML: NDArray[Any]) -> Split:
    """A training split: what is hidden is drawn while it is learned from, by `Hide`."""
    return Split(inputs={"ids": ids_ML}, targets=ids_ML.astype(np.int64), lesson={"ids": ids_ML, "units": units_ML})


def exam(ids_ML: NDArray[Any], units_ML: NDArray[Any], *, mask: int, seed: int) -> Split:
    """A split to judge by: what is hidden is drawn once, by the seed, and is all masked."""
    generator = torch.Generator().manual_seed(seed)
    position_MK = chosen(torch.from_numpy(units_ML), generator)
    hidden_ML = is_chosen(position_MK, ids_ML.shape[1]).numpy()
    shown_ML = np.where(hidden_ML, mask, ids_ML).astype(ids_ML.dtype)
    return Split(
        inputs={"ids": shown_ML},
        targets=np.where(hidden_ML, ids_ML, NOTHING).astype(np.int64),
        lesson={"ids": shown_ML, "positions": position_MK.numpy()},
    )


def hidden(dataset: Dataset, *, mask: int, num_special: int, seed: int) -> Dataset:
    """A data set of texts as one of texts with hidden tokens: each but the special ones is a unit."""
    (ids_tensor,) = dataset.train.inputs

    def units(split: Split) -> tuple[NDArray[Any], NDArray[Any]]:
        ids_ML = split.inputs[ids_tensor]
        return ids_ML, np.where(ids_ML < num_special, 0, np.arange(1, ids_ML.shape[1] + 1))

    splits = {
        "train": lesson(*units(dataset.train)),
        "validation": exam(*units(dataset.validation), mask=mask, seed=seed),
        "test": exam(*units(dataset.test), mask=mask, seed=seed),
    }
    return Dataset(name=dataset.name, sha256=digest(splits, dataset.files), files=dataset.files, **splits)


def found(outputs: Tensors, targets: NDArray[Any]) -> list[Measure]:
    """The share of hidden tokens that `filled` `[N, L]` found; the interval draws texts."""
    judged_NL = targets != NOTHING
    hits_NL = (outputs["filled"] == targets) & judged_NL
    counts_N2 = np.stack((hits_NL.sum(axis=1), judged_NL.sum(axis=1)), axis=1).astype(np.float64)
    return [resampled("found_tokens", counts_N2, _ratio, larger_is_better=True)]


def most_frequent(dataset: Dataset) -> float:
    """The share of the test's hidden tokens that are training's most frequent one."""
    ids_ML, units_ML = dataset.train.lesson.values()
    token = np.bincount(ids_ML[units_ML > 0]).argmax()
    targets = dataset.test.targets
    return float((targets == token).sum() / (targets != NOTHING).sum())


def _at(targets_NL: Tensor, position_NK: Tensor) -> Tensor:
    """Targets at the positions, nothing where there is no position."""
    return targets_NL.gather(1, position_NK.clamp(min=0)).masked_fill(position_NK < 0, NOTHING)


def _ratio(counts_N2: NDArray[np.float64]) -> float:
    return float(counts_N2[:, 0].sum() / max(counts_N2[:, 1].sum(), 1.0))
