"""Greedy decoding as a graph: the likeliest token, so many times, without a branch that depends on the data.

An engine has a fixed number of steps; a text that has ended is filled up.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from training.network.repetition import State, repeated

Step = Callable[[Tensor, Tensor, State], tuple[Tensor, State]]
"""From each text's last token `[N, 1]`, its place `[1]` and the state to the next token's logits `[N, K]`, and the next
state."""


def greedy(step: Step, state: State, start_N1: Tensor, place_T: Tensor, *, end: int, filler: int) -> Tensor:
    """Tokens `[N, T]`: up to each text's `end` the likeliest, then `filler`."""

    def body(carried: State, places: State) -> tuple[State, Tensor]:
        token_N1, ended_N1, *before = carried
        logits_NK, after = step(token_N1, places[0], tuple(before))
        token_N1 = torch.where(ended_N1, filler, logits_NK.argmax(dim=1, keepdim=True))
        return (token_N1, ended_N1 | (token_N1 == end), *after), token_N1.clone()

    nothing_N1 = torch.zeros_like(start_N1, dtype=torch.bool)
    return repeated(body, (start_N1, nothing_N1, *state), (place_T.unsqueeze(1),))[..., 0].T
