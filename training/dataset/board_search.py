"""Many chess positions at once, searched a few plies deep: where a value comes from when no game's result is known.

The evaluation is our own and small: material, squares, and how near a losing king is to the edge (after Tomasz
Michniewski's "Simplified Evaluation Function", 1995, and the mop-up evaluation of David Slate and Larry Atkin's
Chess 4.x, 1977). Exchanges are played out first, as anything that stops within one is wrong by a piece: the search of
captures is Shannon's, "Programming a Computer for Playing Chess", 1950, section 3.

Axes: N positions, M moves (of training.network.chess_rule), S squares as the side to move sees them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from training.network.chess_rule import MOVES, NUM_SQUARES, Movement

KING_PAWNS = 200.0  # more than all else together, so that a move that loses the king shows
ILLEGAL_PAWNS = -KING_PAWNS / 2  # below it, the king was lost

_CHUNK = 256  # positions looked at together: what stays in a core's cache
_EMPTY, _PAWN, _ROOK, _KING = 0, 1, 4, 6
_NUM_KINDS = 6
_WORTH_PAWNS = (1.0, 3.0, 3.2, 5.0, 9.5, KING_PAWNS)
_ADVANCE_PAWNS = (0.0, 0.0, 0.02, 0.08, 0.2, 0.5, 1.0, 0.0)  # of a pawn by its rank
_CENTRE_PAWNS = (0.03, 0.1, 0.06, 0.0, 0.03, 0.0)  # of a piece for each step away from the edge
_CLEAR_PAWNS = 3.0  # from here on it is about driving the king to the edge
_EDGE_PAWNS, _NEAR_PAWNS = 0.12, 0.06  # for each step of the king from the centre, and of the kings to each other

_START = torch.tensor([move[0] for move in MOVES])
_END = torch.tensor([move[1] for move in MOVES])
_BECOMES = torch.tensor([move[2] + 1 if move[2] else _EMPTY for move in MOVES])
_SQUARE = torch.arange(NUM_SQUARES)
_RANK, _FILE = _SQUARE // 8, _SQUARE % 8
_OTHER_SIDE = torch.tensor([_EMPTY, *range(7, 13), *range(1, 7)])
# Rights (own short and long, theirs) that are left once a piece moved from or to the square.
_KEPT = torch.ones(NUM_SQUARES, 4)
for _square, _lost in ((4, [0, 1]), (7, [0]), (0, [1]), (60, [2, 3]), (63, [2]), (56, [3])):
    _KEPT[_square, _lost] = 0


def _square_table() -> Tensor:
    """Worth of each of the 13 contents on each square, to the side to move."""
    inward = torch.minimum(torch.minimum(_RANK, 7 - _RANK), torch.minimum(_FILE, 7 - _FILE))
    own = torch.tensor(_WORTH_PAWNS)[:, None] + torch.tensor(_CENTRE_PAWNS)[:, None] * inward
    own[0] += torch.tensor(_ADVANCE_PAWNS)[_RANK]
    theirs = -own[:, _SQUARE ^ 56]
    return torch.cat((torch.zeros(1, NUM_SQUARES), own, theirs))


_TABLE = _square_table()
_movement = Movement()


@dataclass(frozen=True, kw_only=True, slots=True)
class Boards:
    """N positions: contents of the squares (0 nothing, 1 to 6 own PNBRQK, 7 to 12 theirs), rights, en passant file."""

    contents: Tensor
    rights: Tensor
    files: Tensor

    def __len__(self) -> int:
        return len(self.contents)

    def take(self, chosen: Tensor | slice) -> "Boards":
        """Those chosen by index or as a slice."""
        return Boards(contents=self.contents[chosen], rights=self.rights[chosen], files=self.files[chosen])

    def chunks(self) -> Iterator["Boards"]:
        """All of them in their order, a few at a time."""
        return (self.take(slice(begin, begin + _CHUNK)) for begin in range(0, max(len(self), 1), _CHUNK))

    def possible(self) -> Tensor:
        """Moves that the pieces can make, bool `[N, M]`."""
        kinds = torch.arange(1, 2 * _NUM_KINDS + 1)
        return torch.cat(
            [_movement((b.contents[:, None] == kinds[:, None]).float(), b.rights, b.files) for b in self.chunks()]
        )

    def play(self, move_N: Tensor) -> "Boards":
        """One move on each, as the other side sees it."""
        content_NS, n = self.contents.clone(), torch.arange(len(self))
        start_N, end_N, becomes_N = _START[move_N], _END[move_N], _BECOMES[move_N]
        piece_N = content_NS[n, start_N]
        pawn_N, step_N = piece_N == _PAWN, end_N - start_N
        passing = pawn_N & (step_N % 8 != 0) & (content_NS[n, end_N] == _EMPTY)
        content_NS[n[passing], end_N[passing] - 8] = _EMPTY
        content_NS[n, start_N] = _EMPTY
        content_NS[n, end_N] = torch.where(becomes_N > 0, becomes_N, piece_N)
        castled = (piece_N == _KING) & (step_N.abs() == 2)
        for step, rook_from, rook_to in ((2, 7, 5), (-2, 0, 3)):
            there = n[castled & (step_N == step)]
            content_NS[there, rook_from], content_NS[there, rook_to] = _EMPTY, _ROOK
        double_N = pawn_N & (step_N == 16)
        rights_N4 = self.rights * _KEPT[start_N] * _KEPT[end_N]
        return Boards(
            contents=_OTHER_SIDE[content_NS][:, _SQUARE ^ 56],
            rights=rights_N4[:, [2, 3, 0, 1]],
            files=(double_N[:, None] & (_FILE[end_N][:, None] == torch.arange(8))).float(),
        )


def at_rest(boards: Boards) -> Tensor:
    """What each position is worth to the side to move, in pawns `[N]`, if nothing happened."""
    worth_N = _TABLE[boards.contents, _SQUARE].sum(dim=1)
    own_N, their_N = _king(boards, _KING), _king(boards, _KING + _NUM_KINDS)
    apart_N = (_RANK[own_N] - _RANK[their_N]).abs() + (_FILE[own_N] - _FILE[their_N]).abs()
    near_N = _NEAR_PAWNS * (14 - apart_N)
    ahead_N = (worth_N > _CLEAR_PAWNS) * (near_N + _EDGE_PAWNS * _outward(their_N))
    behind_N = (worth_N < -_CLEAR_PAWNS) * (near_N + _EDGE_PAWNS * _outward(own_N))
    return worth_N + ahead_N - behind_N


def after_captures(boards: Boards, plies: int) -> Tensor:
    """The same once both sides took what they gain by, for at most so many plies; either may stop at any time."""
    worth_N = at_rest(boards)
    if plies == 0:
        return worth_N
    loud_NM = (boards.contents[:, _END] > _NUM_KINDS) | (_BECOMES == _PAWN + 4)
    found_N, move_N = (boards.possible() & loud_NM).nonzero(as_tuple=True)
    if plies == 1:  # the last ply changes two squares: there is no need to look at all of them again
        content_NS, start_N, end_N = boards.contents, _START[move_N], _END[move_N]
        piece_N, prey_N, becomes_N = content_NS[found_N, start_N], content_NS[found_N, end_N], _BECOMES[move_N]
        placed_N = _TABLE[torch.where(becomes_N > 0, becomes_N, piece_N).long(), end_N]
        taken_N = worth_N[found_N] + placed_N - _TABLE[piece_N.long(), start_N] - _TABLE[prey_N.long(), end_N]
    else:
        taken_N = -after_captures(boards.take(found_N).play(move_N), plies - 1)
    return worth_N.scatter_reduce(0, found_N, taken_N, "amax")


def after_moves(boards: Boards, plies: int) -> Tensor:
    """What each move is worth `[N, M]` after captures of so many plies; minus infinity where it is illegal."""
    worth_NM = torch.full((len(boards), len(MOVES)), -torch.inf)
    found_N, move_N = boards.possible().nonzero(as_tuple=True)
    taken_N = -after_captures(boards.take(found_N).play(move_N), plies)
    legal_N = taken_N > ILLEGAL_PAWNS
    worth_NM[found_N[legal_N], move_N[legal_N]] = taken_N[legal_N]
    return worth_NM


def _king(boards: Boards, content: int) -> Tensor:
    """The king's square `[N]`; the first square where there is none."""
    return (boards.contents == content).int().argmax(dim=1)


def _outward(square_N: Tensor) -> Tensor:
    """Steps from the four squares of the centre."""
    return torch.maximum(3 - _RANK, _RANK - 4)[square_N] + torch.maximum(3 - _FILE, _FILE - 4)[square_N]
