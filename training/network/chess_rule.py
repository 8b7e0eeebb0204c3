"""The rules of chess as tensors: how a position is written, and which moves the pieces in it can make.

A position is the text of its FEN (Forsyth-Edwards notation; PGN standard 1994, section 16.1), one token a character: 64
squares from a8 to h1, the side to move, castling rights and the en passant square. Everything behind that is seen by
the side to move, as if it played white: what is learned for one colour holds for the other.

Moves are possible by the way that pieces move, over empty squares; whether the own king is left in check isn't looked
at. A label is a move as the Universal Chess Interface writes it. Axes: N positions, S squares (a1, b1, ... h8 as the
side to move sees them), P kinds of pieces (own PNBRQK, then theirs), M moves of one side, K labels of both.
"""

from itertools import product

import torch
from torch import Tensor, nn

PIECES = "PNBRQK"
PAD_ID, UNKNOWN_ID = 0, 1
VOCABULARY = ("[PAD]", "[UNK]", ".", *PIECES, *PIECES.lower(), "w", "-", *"acdefgh", "3", "6")  # the b is a bishop's
IDS = {token: i for i, token in enumerate(VOCABULARY)}
NUM_SQUARES = 64
MAX_LENGTH = NUM_SQUARES + 1 + 4 + 2  # squares, side, castling rights, en passant
IMPOSSIBLE = -30.0  # the logit of a move that no piece can make: a probability of nothing, and still a small number

Move = tuple[int, int, int]  # from, to, and the place in PIECES of what a pawn becomes, 0 where it isn't promoted

_SIDE_AT = NUM_SQUARES
_LAST_RANK = 56
_E1, _C1, _G1 = 4, 2, 6


def _moves() -> list[Move]:
    """Every move that some piece could make on an empty board, white's promotions last: 1,792 and 88."""
    moves, promotions = [], []
    for start, end in product(range(NUM_SQUARES), repeat=2):
        rise, shift = end // 8 - start // 8, abs(end % 8 - start % 8)
        if start != end and (rise == 0 or shift in (0, abs(rise)) or {abs(rise), shift} == {1, 2}):
            moves.append((start, end, 0))
        if start // 8 == 6 and rise == 1 and shift <= 1:
            promotions += [(start, end, kind) for kind in range(1, 5)]
    return moves + promotions


def uci(move: Move) -> str:
    """A move as a label."""
    squares = ("abcdefgh"[square % 8] + str(square // 8 + 1) for square in move[:2])
    return "".join((*squares, PIECES[move[2]].lower() if move[2] else ""))


def mirrored(move: Move) -> Move:
    """A move as the other side sees it."""
    return move[0] ^ 56, move[1] ^ 56, move[2]


MOVES = _moves()
LABELS = (*map(uci, MOVES), *(uci(mirrored(move)) for move in MOVES if move[2]))
_NUMBER = {uci(move): number for number, move in enumerate(MOVES)}
# The move behind each label for either side, one past the last where that side has none.
BY_WHITE = [_NUMBER.get(label, len(MOVES)) for label in LABELS]
BY_BLACK = [_NUMBER.get(label[0] + str(9 - int(label[1])) + label[2] + str(9 - int(label[3])) + label[4:], len(MOVES))
            for label in LABELS]  # fmt: skip


def turned(pieces_NPS: Tensor) -> Tensor:
    """The same pieces as the other side sees them."""
    other_NPS = torch.cat((pieces_NPS[:, 6:], pieces_NPS[:, :6]), dim=1)
    return ranks(other_NPS).flip(2).flatten(2)


def ranks(x_NCS: Tensor) -> Tensor:
    """Squares as a board, `[N, C, 8, 8]`."""
    return x_NCS.reshape(-1, x_NCS.shape[1], 8, 8)


class View(nn.Module):
    """Token ids to what the side to move sees; where the text is no position, nothing is on the board."""

    kinds: Tensor
    rights: Tensor
    files: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kinds", _ids(PIECES + PIECES.lower()), persistent=False)
        self.register_buffer("rights", _ids("KQkq"), persistent=False)
        self.register_buffer("files", _ids("abcdefgh"), persistent=False)

    def forward(self, ids_NL: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pieces `[N, P, S]`, rights `[N, 4]` (own short and long, theirs), en passant file `[N, 8]`, white `[N, 1]`.

        All but `white`, which is bool, are FP32 zeros and ones.
        """
        white_N1 = ids_NL[:, _SIDE_AT : _SIDE_AT + 1] == IDS["w"]
        by_black_NPS = (ids_NL[:, None, :NUM_SQUARES] == self.kinds[:, None]).float()
        by_black_NPS = torch.cat((by_black_NPS[:, 6:], by_black_NPS[:, :6]), dim=1)  # a8 first is how black sees it
        tail_N1T = ids_NL[:, None, _SIDE_AT + 1 :]
        rights_N4 = (tail_N1T == self.rights[:, None]).any(dim=2).float()
        file_N8 = (tail_N1T == self.files[:, None]).any(dim=2).float()
        return (
            torch.where(white_N1[..., None], turned(by_black_NPS), by_black_NPS),
            torch.where(white_N1, rights_N4, torch.cat((rights_N4[:, 2:], rights_N4[:, :2]), dim=1)),
            file_N8,
            white_N1,
        )


class Movement(nn.Module):
    """Which of the side's moves its pieces can make."""

    start: Tensor
    end: Tensor
    way: Tensor
    between: Tensor
    push: Tensor
    take: Tensor
    castle: Tensor

    def __init__(self) -> None:
        super().__init__()
        tables = {
            "start": torch.tensor([move[0] for move in MOVES]),
            "end": torch.tensor([move[1] for move in MOVES]),
            "way": torch.tensor([_way(move) * NUM_SQUARES + move[0] for move in MOVES]),
            "between": torch.tensor([_between(move) for move in MOVES]).float().T.contiguous(),
            "push": torch.tensor([_pushes(move) for move in MOVES]).float(),
            "take": torch.tensor([_takes(move) for move in MOVES]).float(),
            "castle": torch.tensor([[move == (_E1, end, 0) for move in MOVES] for end in (_G1, _C1)]).float(),
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, pieces_NPS: Tensor, rights_N4: Tensor, file_N8: Tensor) -> Tensor:
        """Bool `[N, M]`, of what a View shows."""
        own_NS, their_NS = pieces_NPS[:, :6].sum(dim=1), pieces_NPS[:, 6:].sum(dim=1)
        full_NS = own_NS + their_NS
        # What a pawn takes: the sixth rank's square behind a pawn that has just moved by two counts too.
        prey_NS = torch.cat((their_NS[:, :40], their_NS[:, 40:48] + file_N8, their_NS[:, 48:]), dim=1)
        way_free_NM = (full_NS @ self.between < 0.5).float()
        pawn_NS, knight_NS, bishop_NS, rook_NS, queen_NS, king_NS = pieces_NPS[:, :6].unbind(dim=1)
        straight_NS, diagonal_NS = rook_NS + queen_NS, bishop_NS + queen_NS
        able_NW = torch.cat(  # in the order of _way
            (straight_NS, diagonal_NS, straight_NS + king_NS, diagonal_NS + king_NS, knight_NS, 0 * pawn_NS), dim=1
        )
        piece_NM = able_NW.index_select(1, self.way) * (1 - own_NS.index_select(1, self.end))
        ahead_NM = (1 - full_NS.index_select(1, self.end)) * self.push + prey_NS.index_select(1, self.end) * self.take
        possible_NM = way_free_NM * (piece_NM + pawn_NS.index_select(1, self.start) * ahead_NM)
        king_N = king_NS[:, _E1]
        short_N = king_N * rights_N4[:, 0] * rook_NS[:, 7] * (full_NS[:, 5:7].sum(dim=1) < 0.5)
        long_N = king_N * rights_N4[:, 1] * rook_NS[:, 0] * (full_NS[:, 1:4].sum(dim=1) < 0.5)
        castle_NM = torch.stack((short_N, long_N), dim=1) @ self.castle
        return possible_NM + castle_NM > 0.5


def _ids(tokens: str) -> Tensor:
    return torch.tensor([IDS[token] for token in tokens])


def _steps(move: Move) -> tuple[int, int]:
    return move[1] // 8 - move[0] // 8, move[1] % 8 - move[0] % 8


def _way(move: Move) -> int:
    """How a piece, no pawn, goes: straight, diagonally, the same by one step, as a knight; or not at all."""
    rise, shift = map(abs, _steps(move))
    if move[2]:
        return 5
    if {rise, shift} == {1, 2}:
        return 4
    return (rise == shift) + 2 * (max(rise, shift) == 1)


def _between(move: Move) -> list[bool]:
    """The squares that a move passes over."""
    rise, shift = _steps(move)
    num = max(abs(rise), abs(shift))
    passed = set()
    if abs(rise) in (0, num) and abs(shift) in (0, num):
        passed = {move[0] + (8 * rise + shift) // num * k for k in range(1, num)}
    return [square in passed for square in range(NUM_SQUARES)]


def _pushes(move: Move) -> bool:
    """Whether a pawn goes that way to an empty square."""
    rise, shift = _steps(move)
    return shift == 0 and _pawn_may(move) and (rise == 1 or (rise == 2 and move[0] // 8 == 1))


def _takes(move: Move) -> bool:
    rise, shift = _steps(move)
    return abs(shift) == 1 and rise == 1 and _pawn_may(move)


def _pawn_may(move: Move) -> bool:
    """A pawn on the last rank is promoted; none stands on the first."""
    return move[0] // 8 > 0 and (move[1] >= _LAST_RANK) == bool(move[2])
