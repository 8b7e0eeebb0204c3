"""A decoder that goes on with a text, and keeps what it has made of it, so that each token is computed once.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2): layers are normalised before they
are entered, one table of tokens serves input and output, weights into the residual are scaled by its depth.

The kept keys and values are an input and an output of one fixed shape, with room for the longest text, and the number
of places in use is an input: no tensor grows from step to step, so one engine and one batch serve texts of any
length. Axes: N samples, T new tokens, P places, C channels, L layers, H heads, D channels of a head, K tokens.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from torch import Tensor, nn

from training.network.attention import Block, Kept, Slots, cached
from training.network.vocabulary import known

_OTHERWISE = 0  # bytes have no unknown token: an id that is no token's is the first one


class Gpt(nn.Module):
    """Whole texts while it learns; a prompt, and then token after token, when it is served."""

    def __init__(
        self, num_tokens: int, num_places: int, *, width: int, num_heads: int, num_layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(num_tokens, width), nn.Embedding(num_places, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, num_heads, dropout, nn.GELU(approximate="tanh")) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.place_P = nn.Buffer(torch.arange(num_places), persistent=False)
        self.apply(_initialise)
        for name, parameter in self.blocks.named_parameters():
            if name.endswith(("attention.out.weight", "think.3.weight")):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * num_layers))

    def forward(
        self, ids_NT: Tensor, cache: Tensor | None = None, length_N1: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits `[N, T, K]` of what follows each token.

        With a cache `[N, L, 2, H, P, D]`, of which `length` places are in use, the tokens go on from there, and the
        cache with them in it is answered too. Tokens that find no place any more see the others, but aren't kept.
        """
        place_T = torch.arange(ids_NT.shape[1], device=ids_NT.device)
        if cache is None or length_N1 is None:
            x_NTC, before_TT = self._embedded(ids_NT, place_T), place_T <= place_T[:, None]
            for block in self.blocks:
                x_NTC, _ = block(x_NTC, before_TT)
            return self._logits(x_NTC)
        num_places = self.place.num_embeddings
        place_NT = length_N1.clamp(0, num_places) + place_T
        x_NTC = self._embedded(ids_NT, place_NT.clamp(max=num_places - 1))
        slots = Slots(place_NT, self.place_P)
        layers: list[Kept] = []
        for block, layer in zip(self.blocks, cache.unbind(1), strict=True):
            x_NTC, kept = block(x_NTC, slots.seen, cache=(slots, layer))
            layers.append(kept)
        return self._logits(x_NTC), cached(layers)

    def _embedded(self, ids_NT: Tensor, place_NT: Tensor) -> Tensor:
        ids_NT = known(ids_NT, self.token.num_embeddings, _OTHERWISE)
        embedded_NTC: Tensor = self.drop(self.token(ids_NT) + self.place(place_NT))
        return embedded_NTC

    def _logits(self, x_NTC: Tensor) -> Tensor:
        return F.linear(self.norm(x_NTC), self.token.weight)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
