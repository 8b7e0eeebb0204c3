"""Attention with several heads, whose keys and values may be kept from one call to the next.

Vaswani et al. 2017, "Attention Is All You Need", arXiv 1706.03762, section 3.2; layers are normalised before they are
entered (Xiong et al. 2020, arXiv 2002.04745), which needs no long warm-up. Axes: N samples, T positions that ask,
S positions that are asked, P places of a cache, C channels, H heads, D channels of a head.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from torch import Tensor, nn

Kept = tuple[Tensor, Tensor]
"""Keys and values `[N, H, S, D]` of positions that can be looked at."""


class Memory(nn.Module):
    """What a text can be asked by: a key and a value for every position."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x_NSC: Tensor) -> Kept:
        """Keys and values of `[N, S, C]`."""
        return _split(self.key(x_NSC), self.num_heads), _split(self.value(x_NSC), self.num_heads)


class Attention(nn.Module):
    """Positions of a text look at what is kept of one."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x_NTC: Tensor, kept: Kept, allowed: Tensor) -> Tensor:
        """`[N, T, C]` of what each position found; `allowed` is bool, `[N, 1, T, S]` or what broadcasts to it.

        A position that may look at nothing finds NaN.
        """
        query_NHTD = _split(self.query(x_NTC), self.num_heads)
        dropout = self.dropout if self.training else 0.0
        found_NHTD = F.scaled_dot_product_attention(query_NHTD, *kept, attn_mask=allowed, dropout_p=dropout)
        answer_NTC: Tensor = self.out(found_NHTD.transpose(1, 2).flatten(2))
        return answer_NTC


class Slots:
    """Where in a cache of fixed size new tokens go, and what each of them sees there; the same for all layers."""

    def __init__(self, place_NT: Tensor, place_P: Tensor) -> None:
        self.seen = (place_P <= place_NT[..., None])[:, None]
        here_NTP = place_P == place_NT[..., None]
        self._into_NPT = here_NTP.mT.float()[:, None]
        self._taken = here_NTP.any(dim=1)[:, None, :, None]

    def filled(self, cache_N2HPD: Tensor, new: Kept) -> Kept:
        """Keys and values `[N, H, P, D]` with the new ones in their places.

        By a product, which engines do better than a scatter.
        """
        key, value = (
            torch.where(self._taken, self._into_NPT @ new_NHTD, cache_NHPD)
            for new_NHTD, cache_NHPD in zip(new, cache_N2HPD.unbind(1), strict=True)
        )
        return key, value


class Block(nn.Module):
    """A layer: looks at its own text, at a source where it `reads` one, and thinks."""

    def __init__(
        self, width: int, num_heads: int, dropout: float, activation: nn.Module, *, reads: bool = False
    ) -> None:
        super().__init__()
        self.norm, self.memory = nn.LayerNorm(width), Memory(width, num_heads)
        self.attention = Attention(width, num_heads, dropout)
        if reads:
            self.source_norm, self.source = nn.LayerNorm(width), Attention(width, num_heads, dropout)
        self.think = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), activation, nn.Linear(4 * width, width)
        )
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x_NTC: Tensor,
        allowed: Tensor,
        source: tuple[Kept, Tensor] | None = None,
        cache: tuple[Slots, Tensor] | None = None,
    ) -> tuple[Tensor, Kept]:
        """`[N, T, C]`, and the keys and values of its own text, those in the cache among them.

        A source comes with what of it is allowed, a cache `[N, 2, H, P, D]` with where the text goes on in it.
        """
        normed_NTC = self.norm(x_NTC)
        kept: Kept = self.memory(normed_NTC)
        if cache is not None:
            kept = cache[0].filled(cache[1], kept)
        x_NTC = x_NTC + self.drop(self.attention(normed_NTC, kept, allowed))
        if source is not None:
            x_NTC = x_NTC + self.drop(self.source(self.source_norm(x_NTC), *source))
        return x_NTC + self.drop(self.think(x_NTC)), kept


def cached(layers: list[Kept]) -> Tensor:
    """Keys and values of all layers `[N, L, 2, H, P, D]`, as the next call takes them."""
    return torch.stack([torch.stack(kept, dim=1) for kept in layers], dim=1)


def _split(x_NTC: Tensor, num_heads: int) -> Tensor:
    """`[N, T, C]` to `[N, H, T, D]`."""
    num_samples, length, width = x_NTC.shape
    return x_NTC.view(num_samples, length, num_heads, width // num_heads).transpose(1, 2)
