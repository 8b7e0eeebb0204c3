"""Learning from texts of many lengths without computing their padding.

Messages have 8 tokens on average and room for 24: a batch is cut into parts of like length, each as wide as its
longest text. Only a lesson is cut so, for a graph that is served has no shapes that depend on the data.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from torch import Tensor

NUM_PARTS = 4

Lesson = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From source ids and mask `[N, S]` and the translation so far `[N, T]` to logits `[N, T, K]`."""


def by_length(lesson: Lesson, ids_NS: Tensor, mask_NS: Tensor, shown_NT: Tensor, pad: int) -> Tensor:
    """What `lesson` answers to the whole batch; logits behind a text's end are 0."""
    longest_N = torch.maximum(mask_NS.sum(dim=1), (shown_NT != pad).sum(dim=1))
    return in_parts(lesson, longest_N, (ids_NS, mask_NS, shown_NT))


def in_parts(answer: Callable[..., Tensor], length_N: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """What `answer` makes `[N, L, C]` of inputs `[N, L]`, asked part by part; 0 behind each part's longest text."""
    order_N = length_N.argsort(stable=True)
    parts = []
    for chosen in order_N.tensor_split(min(NUM_PARTS, len(order_N))):
        width = int(length_N[chosen].max())
        answered = answer(*(each[chosen, :width] for each in inputs))
        parts.append(F.pad(answered, (0, 0, 0, inputs[-1].shape[1] - width)))
    return torch.cat(parts)[order_N.argsort()]
