"""A recursive network: a tree is understood from its leaves up, each node from its children.

Tai, Socher & Manning 2015, "Improved semantic representations from tree-structured long short-term memory networks",
arXiv 1503.00075, section 3.1: the Child-Sum Tree-LSTM. A tree comes as a grid: row d holds the nodes of depth d, and of
each its kind and the place of its parent in the row above. So the recursion is as many steps as there are rows, each
node is computed once, and a sum over children is a product with a matrix of zeros and ones: a graph without loops.
Axes: N samples, L levels, W places in a level (P of the parents, C of the children), H units.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from torch import Tensor, nn

from training.network.vocabulary import known

EMPTY, UNKNOWN = 0, 1  # the kinds of a place without a node, and of a node whose kind isn't known


class TreeLstm(nn.Module):
    """Kinds and parents `INT32` `[N, L, W]` to class scores `[N, classes]`.

    Kinds are from 1 to below `num_kinds`; any other but 0 is the unknown one. A share `dropped` of the nodes is unknown
    in training, so that it is learned. A node whose parent's place holds none counts for nothing.
    """

    def __init__(self, *, num_kinds: int, num_classes: int, width: int, dropout: float, dropped: float) -> None:
        super().__init__()
        self.num_kinds, self.width, self.dropped = num_kinds, width, dropped
        # W x + b of the equations 3 to 6 at once, for x says no more than which kind it is.
        self.kind = nn.Embedding(num_kinds, 4 * width)
        nn.init.normal_(self.kind.weight, std=0.5)
        self.below = nn.Linear(width, 3 * width, bias=False)  # U of equations 3, 5 and 6
        self.forget = nn.Linear(width, width, bias=False)  # U of equation 4
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, num_classes))

    def forward(self, kind_NLW: Tensor, parent_NLW: Tensor) -> Tensor:
        """From the deepest level to the root."""
        kind_NLW = known(kind_NLW, self.num_kinds, UNKNOWN)
        if self.training and self.dropped:
            dropped_NLW = torch.rand(kind_NLW.shape, device=kind_NLW.device) < self.dropped
            kind_NLW = torch.where(dropped_NLW & (kind_NLW != EMPTY), UNKNOWN, kind_NLW)
        gates_NLWG = self.kind(kind_NLW)
        there_NLW1 = (kind_NLW != EMPTY).unsqueeze(3).float()
        place_P1 = torch.arange(kind_NLW.shape[2], dtype=torch.int32, device=kind_NLW.device)[:, None]
        child_NLPC = (parent_NLW.unsqueeze(2) == place_P1).float() * there_NLW1.transpose(2, 3)
        child_NLPC = F.pad(child_NLPC[:, 1:], (0, 0, 0, 0, 0, 1))  # by the level of the parents; the last has none
        h_NCH = c_NCH = torch.zeros_like(gates_NLWG[:, 0, :, : self.width])
        for level in reversed(range(kind_NLW.shape[1])):
            h_NCH, c_NCH = self.step(gates_NLWG[:, level], there_NLW1[:, level], child_NLPC[:, level], h_NCH, c_NCH)
        logits_NK: Tensor = self.head(h_NCH[:, 0])
        return logits_NK

    def step(
        self, gates_NPG: Tensor, there_NP1: Tensor, child_NPC: Tensor, h_NCH: Tensor, c_NCH: Tensor
    ) -> tuple[Tensor, Tensor]:
        """States of a level, of those of the level below it; 0 where no node is."""
        of_kind_NPI, of_kind_NPH = gates_NPG[..., : 3 * self.width], gates_NPG[..., 3 * self.width :]
        i_NPH, o_NPH, u_NPH = (of_kind_NPI + self.below(child_NPC @ h_NCH)).chunk(3, dim=2)
        f_NCH = torch.sigmoid(child_NPC.transpose(1, 2) @ of_kind_NPH + self.forget(h_NCH))
        c_NPH = torch.sigmoid(i_NPH) * torch.tanh(u_NPH) + child_NPC @ (f_NCH * c_NCH)
        c_NPH = c_NPH * there_NP1
        return torch.sigmoid(o_NPH) * torch.tanh(c_NPH) * there_NP1, c_NPH
