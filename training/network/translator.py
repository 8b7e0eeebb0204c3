"""The Transformer: an encoder that reads a text whole, and a decoder that writes its translation word by word.

Vaswani et al. 2017, "Attention Is All You Need", arXiv 1706.03762. One table of tokens serves both languages and the
output (section 3.4). Axes: N samples, S source positions, T target positions, P places for the target, C channels,
L layers, H heads, D channels of a head, K tokens.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from torch import Tensor, nn

from training.network.attention import Block, Kept, Memory, Slots, cached
from training.network.greedy import greedy
from training.network.lesson import by_length
from training.network.repetition import State
from training.network.vocabulary import known


class Translator(nn.Module):
    """While it learns it is shown the translation so far; served, it goes on from its own words.

    Padding isn't read, whatever the mask says; an id that is no token's counts as padding, for no token is unknown.
    """

    def __init__(
        self,
        num_tokens: int,
        num_places: int,
        *,
        pad: int,
        start: int,
        end: int,
        width: int,
        num_heads: int,
        num_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.start, self.end, self.pad = start, end, pad
        self.token = nn.Embedding(num_tokens, width)
        nn.init.normal_(self.token.weight, std=width**-0.5)
        self.cache_shape = (num_layers, 2, num_heads, num_places, width // num_heads)
        self.place_P = nn.Buffer(torch.arange(num_places), persistent=False)
        self.wave_PC = nn.Buffer(_waves(num_places, width), persistent=False)
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.ModuleList(Block(width, num_heads, dropout, nn.ReLU()) for _ in range(num_layers))
        self.read = nn.LayerNorm(width)
        self.sources = nn.ModuleList(Memory(width, num_heads) for _ in range(num_layers))
        self.decoder = nn.ModuleList(Block(width, num_heads, dropout, nn.ReLU(), reads=True) for _ in range(num_layers))
        self.written = nn.LayerNorm(width)

    def forward(self, ids_NS: Tensor, mask_NS: Tensor, shown_NT: Tensor | None = None) -> Tensor:
        """The translation `[N, P]`; where one is shown, logits `[N, T, K]` of the token after each."""
        if shown_NT is not None:
            return by_length(self._lesson, ids_NS, mask_NS, shown_NT, self.pad)
        sources = self._read(ids_NS, mask_NS)

        def step(token_N1: Tensor, place_1: Tensor, state: State) -> tuple[Tensor, State]:
            x_N1C = self._placed(token_N1, place_1)
            slots, layers = Slots(place_1.unsqueeze(0), self.place_P), []
            for block, source, cache in zip(self.decoder, sources, state[0].unbind(1), strict=True):
                x_N1C, kept = block(x_N1C, slots.seen, source, (slots, cache))
                layers.append(kept)
            return self._logits(x_N1C)[:, 0], (cached(layers),)

        cache = self.wave_PC.new_zeros(ids_NS.shape[0], *self.cache_shape)
        start_N1 = torch.full_like(ids_NS[:, :1], self.start)
        return greedy(step, (cache,), start_N1, self.place_P, end=self.end, filler=self.pad)

    def _lesson(self, ids_NS: Tensor, mask_NS: Tensor, shown_NT: Tensor) -> Tensor:
        sources = self._read(ids_NS, mask_NS)
        place_T = self.place_P[: shown_NT.shape[1]]
        x_NTC = self._placed(shown_NT, place_T)
        for block, source in zip(self.decoder, sources, strict=True):
            x_NTC, _ = block(x_NTC, place_T <= place_T[:, None], source)
        return self._logits(x_NTC)

    def _read(self, ids_NS: Tensor, mask_NS: Tensor) -> list[tuple[Kept, Tensor]]:
        """What each layer of the decoder can look at of the source, and where `[N, 1, 1, S]` there is something."""
        ids_NS, place_S = known(ids_NS, self.token.num_embeddings, self.pad), self.place_P[: ids_NS.shape[1]]
        x_NSC = self._placed(ids_NS, place_S)
        # Of a text of nothing but padding the first position is read, for there must be something to look at.
        seen = (((mask_NS > 0) & (ids_NS != self.pad)) | (place_S == 0))[:, None, None, :]
        for block in self.encoder:
            x_NSC, _ = block(x_NSC, seen)
        read_NSC = self.read(x_NSC)
        return [(memory(read_NSC), seen) for memory in self.sources]

    def _placed(self, ids_NT: Tensor, place_T: Tensor) -> Tensor:
        placed_NTC: Tensor = self.drop(self.token(ids_NT) * math.sqrt(self.wave_PC.shape[1]) + self.wave_PC[place_T])
        return placed_NTC

    def _logits(self, x_NTC: Tensor) -> Tensor:
        return F.linear(self.written(x_NTC), self.token.weight)


def _waves(length: int, width: int) -> Tensor:
    """Sines and cosines of each place `[P, C]` (section 3.5)."""
    place_P1 = torch.arange(length).unsqueeze(1)
    angle_PF = place_P1 * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    return torch.stack((angle_PF.sin(), angle_PF.cos()), dim=2).flatten(1)
