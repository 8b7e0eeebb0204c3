"""A tree search over chess positions that asks a network what it thinks of them, several at a time.

PUCT as in Silver et al. 2017, arXiv 1712.01815 (the formula is in Silver et al. 2017, "Mastering the game of Go without
human knowledge", Nature 550, methods): a move is looked into the more, the more the network expects a master to play it
and the better its positions turned out. While a position is being asked about, the moves to it count as lost (Chaslot,
Winands & van den Herik 2008, "Parallel Monte-Carlo Tree Search"), so that one search asks about many at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import chess
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_LOST, _DRAWN = -1.0, 0.0


class Network(Protocol):
    """Judges positions for the side to move."""

    @property
    def columns(self) -> Mapping[str, int]:
        """Where the logit of each move (as the Universal Chess Interface writes it) is."""

    async def ask(self, fens: Sequence[str], /) -> tuple[Array, Array]:
        """Logits `[N, columns]` and values `[N]` from -1, lost, to 1, won; raises BenchError."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much is searched for a move.

    `num_together` positions are asked about at once. `curiosity` is PUCT's constant; a move that wasn't tried yet is
    thought to be worse than its position by `doubt`.
    """

    num_simulations: int = 96
    num_together: int = 16
    curiosity: float = 1.6
    doubt: float = 0.25

    def __post_init__(self) -> None:
        """Refuse a search that looks at nothing."""
        for name in ("num_simulations", "num_together"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")


async def best_move(board: chess.Board, network: Network, effort: Effort) -> chess.Move:
    """The move that looks best; a mate is played without asking. Raises BenchError as the network does.

    The board must have a legal move, and is left as it was.
    """
    if mate := next((move for move in board.legal_moves if _mates(board, move)), None):
        return mate
    here, root = board.copy(), _Node(board)
    root.result = None  # a position that came before ends a line of the search, but here a move is to be played
    await _judge([_Leaf(root, [], here.fen())], network)
    num_done = 0
    while num_done < effort.num_simulations:
        wanted = min(effort.num_together, effort.num_simulations - num_done)
        num_ended, leaves = _gather(root, here, wanted, effort)
        await _judge(leaves, network)
        num_done += num_ended + len(leaves)
    return root.moves[root.best()]


class _Node:
    """A position: its legal moves, what came of them so far, and its result where the game ends here."""

    __slots__ = ("children", "moves", "priors", "result", "totals", "value", "visits")

    def __init__(self, board: chess.Board) -> None:
        self.moves = list(board.legal_moves)
        self.result = _result(board, self.moves)
        self.priors: Array | None = None
        self.value = 0.0
        self.visits, self.totals = np.zeros(len(self.moves)), np.zeros(len(self.moves))
        self.children: list[_Node | None] = [None] * len(self.moves)

    def choose(self, effort: Effort) -> int:
        """The move to look into."""
        tried = self.visits > 0
        worth = np.where(tried, self.totals / np.maximum(self.visits, 1), self.value - effort.doubt)
        interest = effort.curiosity * np.sqrt(self.visits.sum() + 1) * self.priors / (1 + self.visits)
        return int((worth + interest).argmax())

    def best(self) -> int:
        """The move that is surely good: by the lower end of what it is worth.

        Not the one looked into most, as a move that the network expects strongly is that one even when it stalemates.
        """
        tried = np.maximum(self.visits, 1)
        return int(np.where(self.visits > 0, self.totals / tried - 1 / np.sqrt(tried), -np.inf).argmax())


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A position to be asked about, and the moves that led to it from the root."""

    node: _Node
    path: list[tuple[_Node, int]]
    fen: str


def _gather(root: _Node, board: chess.Board, wanted: int, effort: Effort) -> tuple[int, list[_Leaf]]:
    """Up to so many positions to ask about, and how many games ended on the way; at least one of either."""
    leaves: list[_Leaf] = []
    num_ended = 0
    while num_ended + len(leaves) < wanted:
        node, path = root, []
        while node.result is None and node.priors is not None:
            chosen = node.choose(effort)
            path.append((node, chosen))
            node.visits[chosen] += 1
            node.totals[chosen] += _LOST
            board.push(node.moves[chosen])
            child = node.children[chosen]
            if child is None:
                child = node.children[chosen] = _Node(board)
            node = child
        fen = board.fen() if node.result is None else ""
        for _ in path:
            board.pop()
        if node.result is not None:
            _credit(path, node.result)
            num_ended += 1
        elif any(leaf.node is node for leaf in leaves):  # even as lost, nothing else is more promising
            for parent, chosen in path:
                parent.visits[chosen] -= 1
                parent.totals[chosen] -= _LOST
            break
        else:
            leaves.append(_Leaf(node, path, fen))
    return num_ended, leaves


async def _judge(leaves: Sequence[_Leaf], network: Network) -> None:
    """Ask about the positions, and credit the moves that led there."""
    if not leaves:
        return
    logits, values = await network.ask([leaf.fen for leaf in leaves])
    for leaf, logit, value in zip(leaves, logits, values.tolist(), strict=True):
        node = leaf.node
        own = logit[[network.columns[move.uci()] for move in node.moves]]
        shares = np.exp(own - own.max())
        node.priors, node.value = shares / shares.sum(), value
        _credit(leaf.path, value)


def _credit(path: Sequence[tuple[_Node, int]], value: float) -> None:
    """Give each move what it came to, in place of the loss; `value` is for the side to move after the last one."""
    for node, chosen in reversed(path):
        value = -value
        node.totals[chosen] += value - _LOST


def _result(board: chess.Board, moves: Sequence[chess.Move]) -> float | None:
    """What the side to move gets where the game ends; a position that came before is as good as a draw."""
    if not moves:
        return _LOST if board.is_check() else _DRAWN
    if board.halfmove_clock >= 100 or board.is_insufficient_material() or board.is_repetition(2):
        return _DRAWN
    return None


def _mates(board: chess.Board, move: chess.Move) -> bool:
    if not board.gives_check(move):
        return False
    board.push(move)
    mated = board.is_checkmate()
    board.pop()
    return mated
