"""A transformer over the cells of a table row: every cell a token, whatever kind of column it is in.

Gorishniy, Rubachev, Khrulkov & Babenko 2021, "Revisiting deep learning models for tabular data", arXiv 2106.11959 (the
FT-Transformer: section 3.3; attention, then a feed-forward network, each on normalised values with a way around it).
Numbers are encoded piecewise linearly over bins: Gorishniy, Rubachev & Babenko 2022, arXiv 2203.05556, section 3.1.
Cells are dropped while it learns, so that a row with little in it is still answered sensibly.
Axes: N samples, C columns, T tokens (a class token and one a column), D width, B bins, K classes.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from torch import Tensor, nn

from training.network.vocabulary import known


class NumberTokens(nn.Module):
    """A token for each number: how far it is through each bin, times that bin's vector; a missing one has its own."""

    def __init__(self, edges: Sequence[Sequence[float]], width: int) -> None:
        super().__init__()
        num_bins = max(map(len, edges)) - 1
        low_CB, scale_CB = torch.zeros(len(edges), num_bins), torch.zeros(len(edges), num_bins)
        for at, own in enumerate(map(torch.tensor, edges)):
            low_CB[at, : len(own) - 1], scale_CB[at, : len(own) - 1] = own[:-1], 1 / own.diff()
        self.low_CB, self.scale_CB = nn.Buffer(low_CB), nn.Buffer(scale_CB)
        self.weight_CBD = nn.Parameter(torch.randn(len(edges), num_bins, width) / num_bins**0.5)
        self.bias_CD = nn.Parameter(torch.randn(len(edges), width))
        self.missing_CD = nn.Parameter(torch.randn(len(edges), width))

    def forward(self, number_NC: Tensor) -> Tensor:
        """Numbers `[N, C]`, NaN where one is missing, to tokens `[N, C, D]`."""
        missing_NC = number_NC.isnan()
        known_NC = torch.where(missing_NC, 0.0, number_NC)
        through_NCB = ((known_NC[:, :, None] - self.low_CB) * self.scale_CB).clamp(0, 1)
        token_NCD = torch.einsum("ncb,cbd->ncd", through_NCB, self.weight_CBD) + self.bias_CD
        return torch.where(missing_NC[:, :, None], self.missing_CD, token_NCD)


class CategoryTokens(nn.Module):
    """A token for each category, by its index; whatever isn't one of them is the unseen category."""

    def __init__(self, num_categories: Sequence[int], width: int) -> None:
        super().__init__()
        first = [0, *accumulate(num + 1 for num in num_categories)]  # one more a column: the unseen one
        self.first_C = nn.Buffer(torch.tensor(first[:-1], dtype=torch.int32))
        self.unseen_C = nn.Buffer(torch.tensor(num_categories, dtype=torch.float32))
        self.table = nn.Embedding(first[-1], width)

    def forward(self, index_NC: Tensor) -> Tensor:
        """Indices `[N, C]` as numbers to tokens `[N, C, D]`."""
        index_NC = known(index_NC, self.unseen_C, self.unseen_C).to(torch.int32)
        token_NCD: Tensor = self.table(index_NC + self.first_C)
        return token_NCD


class Layer(nn.Module):
    """Attention among the cells of a row, then a feed-forward network with gated units for each."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.gate, self.up, self.down = (nn.Linear(width, width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_NTD: Tensor) -> Tensor:
        """`[N, T, D]` to the same."""
        x_NTD = x_NTD + self.dropout(self.attend(self.norms[0](x_NTD)))
        h_NTD = self.norms[1](x_NTD)
        out_NTD: Tensor = x_NTD + self.down(self.dropout(torch.relu(self.gate(h_NTD)) * self.up(h_NTD)))
        return out_NTD

    def attend(self, x_NTD: Tensor) -> Tensor:
        """Each token a mean of all, weighted by how well they match it."""
        heads = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x_NTD).chunk(3, dim=2))
        mixed_NTD: Tensor = self.mix(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return mixed_NTD


class RowTransformer(nn.Module):
    """Rows `[N, C]`, the numbers first and then the categories, to class scores.

    `edges` are each number's bins from low to high, `num_categories` how many each category column knows. `dropped` is
    the share of cells that are taken away in training.
    """

    def __init__(
        self,
        *,
        edges: Sequence[Sequence[float]],
        num_categories: Sequence[int],
        num_classes: int,
        width: int,
        num_layers: int,
        num_heads: int,
        dropout: float,
        dropped: float,
    ) -> None:
        super().__init__()
        self.num_numbers, self.dropped = len(edges), dropped
        self.numbers, self.categories = NumberTokens(edges, width), CategoryTokens(num_categories, width)
        self.class_D = nn.Parameter(torch.randn(width))
        self.layers = nn.Sequential(*(Layer(width, num_heads, dropout) for _ in range(num_layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes))

    def forward(self, row_NC: Tensor) -> Tensor:
        """Rows as table preprocessing makes them to logits `[N, K]`."""
        if self.training and self.dropped:
            row_NC = torch.where(torch.rand_like(row_NC) < self.dropped, torch.nan, row_NC)
        number_NC, index_NC = row_NC[:, : self.num_numbers], row_NC[:, self.num_numbers :]
        class_N1D = self.class_D.expand(row_NC.shape[0], 1, -1)
        x_NTD = torch.cat((class_N1D, self.numbers(number_NC), self.categories(index_NC)), dim=1)
        logits_NK: Tensor = self.head(self.layers(x_NTD)[:, 0])
        return logits_NK
