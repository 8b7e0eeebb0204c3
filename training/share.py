"""What a part of a batch counts for, so that the parts' losses and gradients add up to those of the whole batch.

A loss is a sum over what is judged, divided by how many there are of it. As a rule those are samples, of which every
part has as many. But of tokens or boxes one part has more than another, and the plain mean over parts would give the
tokens of a part that has few of them too much weight. What isn't one such quotient stays near the whole's only: Dice's
coefficient, and several heads of which one judges samples and another one tokens.
"""

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from torch import Tensor

from training.detection import CentreLoss, has_area
from training.masked import HiddenTokens
from training.next_token import NOTHING, NextToken
from training.objective import MultiTask, Objective


@singledispatch
def num_judged(objective: Objective, inputs: Sequence[Tensor], targets: Any) -> int:
    """How many things an objective's loss and score are means over, in a batch of so many inputs and targets.

    Those are samples, unless another way to count is registered for the objective's kind. At least 1: it divides.
    """
    return len(inputs[0])


@num_judged.register
def _(objective: NextToken, inputs: Sequence[Tensor], targets: Tensor) -> int:
    return _count(targets != NOTHING)


@num_judged.register
def _(objective: HiddenTokens, inputs: Sequence[Tensor], targets: Tensor) -> int:
    position_NK = inputs[-1]
    return _count((targets.gather(1, position_NK.clamp(min=0)) != NOTHING) & (position_NK >= 0))


@num_judged.register
def _(objective: CentreLoss, inputs: Sequence[Tensor], targets: Tensor) -> int:
    return _count(has_area(targets))


@num_judged.register
def _(objective: MultiTask, inputs: Sequence[Tensor], targets: dict[str, Tensor]) -> int:
    """Of all heads together: where they judge the same things, as a single one does, their number cancels out."""
    return sum(num_judged(part.objective, inputs, targets[part.target]) for part in objective.parts)


def _count(judged: Tensor) -> int:
    return max(1, int(judged.sum()))
