"""A residual network of dilated convolutions over a window of bases, which minds where in the window it looks.

Residual blocks: He et al. 2015, arXiv 1512.03385. Dilation doubles from block to block, so that the last one sees the
whole window: van den Oord et al. 2016, arXiv 1609.03499; for splice sites: Jaganathan et al. 2019, "Predicting splicing
from primary sequence with deep learning", Cell 176. A splice site is in a window's middle or nowhere, so unlike theirs
this network is told the place: by a vector added at each, and by a weight of each in the last mean.
Axes: N samples, L places, B bases, C channels, K classes.
"""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions of three places, `dilation` apart, and a way around them."""

    def __init__(self, channels: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm1d(channels),
            nn.ReLU(),
            nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm1d(channels),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation),
        )

    def forward(self, x_NCL: Tensor) -> Tensor:
        """`[N, C, L]` to the same."""
        out_NCL: Tensor = x_NCL + self.body(x_NCL)
        return out_NCL


class BaseNetwork(nn.Module):
    """Ids of bases to class scores. Ids from `first_id` on are the four bases; any other says that nothing is known."""

    def __init__(
        self,
        *,
        first_id: int,
        num_bases: int,
        num_classes: int,
        channels: int,
        num_blocks: int,
        dropout: float,
        input_dropout: float,
    ) -> None:
        super().__init__()
        self.num_bases = num_bases
        self.base_B = nn.Buffer(torch.arange(first_id, first_id + 4, dtype=torch.int32))
        # Whole bases are dropped: what N means is learned from samples in which any base may be missing.
        self.input_dropout = nn.Dropout1d(input_dropout)
        self.stem = nn.Conv1d(4, channels, 7, padding=3)
        self.place_CL = nn.Parameter(torch.randn(channels, num_bases) * 0.1)
        self.blocks = nn.Sequential(*(Block(channels, 2**i, dropout) for i in range(num_blocks)))
        self.norm = nn.Sequential(nn.BatchNorm1d(channels), nn.ReLU())
        self.weight_CL = nn.Parameter(torch.full((channels, num_bases), 1 / num_bases))
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, num_classes))

    def forward(self, ids_NL: Tensor) -> Tensor:
        """Ids `[N, L]`, of which the first `num_bases` count, to logits `[N, K]`."""
        base_NLB = (ids_NL[:, : self.num_bases, None] == self.base_B).float()
        x_NCL = self.stem(self.input_dropout(base_NLB).transpose(1, 2)) + self.place_CL
        x_NCL = self.norm(self.blocks(x_NCL))
        logits_NK: Tensor = self.head((x_NCL * self.weight_CL).sum(dim=2))
        return logits_NK
