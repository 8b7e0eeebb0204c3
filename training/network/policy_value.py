"""A policy and a value from one trunk: which move a master would play, and who stands better.

Silver et al. 2016, "Mastering the game of Go with deep neural networks and tree search", Nature 529, and 2017,
"Mastering Chess and Shogi by Self-Play with a General Reinforcement Learning Algorithm", arXiv 1712.01815: one residual
trunk with two heads, the board turned to the side to move. Here the policy head scores a move as the product of what
its first square asks for and what its last one offers (attention's form, Vaswani et al. 2017, arXiv 1706.03762), and
the rules of movement are in the graph: no other move gets any probability worth naming. How many moves lead to a square
is shown to the trunk, too: a small one can't find out what is attacked along a whole diagonal.

Axes: N positions, L tokens, S squares, C channels, M moves of the side to move, K labels.
"""

import torch
from torch import Tensor, nn

from training.network.chess_rule import (
    BY_BLACK,
    BY_WHITE,
    IMPOSSIBLE,
    MOVES,
    NUM_SQUARES,
    PIECES,
    Movement,
    View,
    ranks,
    turned,
)
from training.network.residual import Block

_NUM_KINDS = 12
_NUM_PLANES = _NUM_KINDS + 4 + 1 + 2  # pieces, rights, en passant, what either side can move to
_VALUE_PLANES = 8
_SIXTH_RANK = 40  # its first square
_LESS_THAN_QUEEN = -5.0  # so rare in games that nothing can be learned of it


class PolicyHead(nn.Module):
    """A logit for each move of the side to move. A pawn becomes a queen, and something less with little probability."""

    place: Tensor
    less: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.asked, self.offered = nn.Linear(width, width), nn.Linear(width, width)
        places = [start * NUM_SQUARES + end for start, end, _ in MOVES]
        less = [_LESS_THAN_QUEEN if 0 < kind < PIECES.index("Q") else 0.0 for _, _, kind in MOVES]
        self.register_buffer("place", torch.tensor(places), persistent=False)
        self.register_buffer("less", torch.tensor(less), persistent=False)

    def forward(self, x_NSC: Tensor) -> Tensor:
        """Features of the squares to logits `[N, M]`."""
        score_NSS = self.asked(x_NSC) @ self.offered(x_NSC).transpose(1, 2) / x_NSC.shape[2] ** 0.5
        logit_NM: Tensor = score_NSS.flatten(1).index_select(1, self.place) + self.less
        return logit_NM


class ValueHead(nn.Module):
    """Who stands better, from what is where and from how many pieces there are."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.reduced = nn.Sequential(nn.Conv2d(width, _VALUE_PLANES, 1, bias=False), nn.BatchNorm2d(_VALUE_PLANES))
        self.judged = nn.Sequential(
            nn.Linear(_VALUE_PLANES * NUM_SQUARES + _NUM_KINDS, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Tanh()
        )

    def forward(self, x_NCHW: Tensor, count_NP: Tensor) -> Tensor:
        """Features of the squares and counts of the pieces to values `[N, 1]`."""
        features_NF = torch.relu(self.reduced(x_NCHW)).flatten(1)
        value_N1: Tensor = self.judged(torch.cat((features_NF, count_NP), dim=1))
        return value_N1


class PolicyValueNetwork(nn.Module):
    """Positions to the logits of all labels, and the value for the side to move."""

    by_white: Tensor
    by_black: Tensor
    lands: Tensor

    def __init__(self, width: int, num_blocks: int, value_width: int) -> None:
        super().__init__()
        self.view, self.movement = View(), Movement()
        self.stem = nn.Sequential(
            nn.Conv2d(_NUM_PLANES, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(*(Block(width, width, 1) for _ in range(num_blocks)))
        self.policy = PolicyHead(width)
        self.value = ValueHead(width, value_width)
        lands = torch.zeros(len(MOVES), NUM_SQUARES)
        lands[torch.arange(len(MOVES)), [end for _, end, _ in MOVES]] = 1
        self.register_buffer("lands", lands, persistent=False)
        self.register_buffer("by_white", torch.tensor(BY_WHITE), persistent=False)
        self.register_buffer("by_black", torch.tensor(BY_BLACK), persistent=False)

    def forward(self, ids_NL: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids to policy logits `[N, K]` and values `[N, 1]` from -1, lost, to 1, won."""
        pieces_NPS, rights_N4, file_N8, white_N1 = self.view(ids_NL)
        possible_NM = self.movement(pieces_NPS, rights_N4, file_N8)
        x_NCHW = self.blocks(self.stem(self._planes(pieces_NPS, rights_N4, file_N8, possible_NM)))
        logit_NM = self.policy(x_NCHW.flatten(2).transpose(1, 2))
        logit_NM = torch.where(possible_NM, logit_NM, IMPOSSIBLE)
        logit_NM = nn.functional.pad(logit_NM, (0, 1), value=IMPOSSIBLE)
        logit_NK = torch.where(
            white_N1, logit_NM.index_select(1, self.by_white), logit_NM.index_select(1, self.by_black)
        )
        return logit_NK, self.value(x_NCHW, pieces_NPS.sum(dim=2))

    def _planes(self, pieces_NPS: Tensor, rights_N4: Tensor, file_N8: Tensor, possible_NM: Tensor) -> Tensor:
        """What the trunk sees, `[N, C, 8, 8]`."""
        theirs_NM = self.movement(turned(pieces_NPS), 0 * rights_N4, 0 * file_N8)
        own_N1S = (possible_NM.float() @ self.lands)[:, None]
        their_N1S = ranks((theirs_NM.float() @ self.lands)[:, None]).flip(2).flatten(2)
        passing_N1S = nn.functional.pad(file_N8, (_SIXTH_RANK, NUM_SQUARES - _SIXTH_RANK - 8))[:, None]
        rights_NCS = rights_N4[..., None].expand(-1, -1, NUM_SQUARES)
        return ranks(torch.cat((pieces_NPS, rights_NCS, passing_N1S, own_N1S / 4, their_N1S / 4), dim=1))
