"""Games of chess between the tree search and players that know less, many at a time so that they share batches.

A search finds mates whatever its network says, so beating weak players doesn't show that the network is worth anything.
Who plays against the search is therefore an argument: it can be the same search with another network, or with none.
"""

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import chess

from bench.tree import Effort, Network, best_move
from contract.document import Document

MAX_PLIES = 160  # a longer game is a draw
NUM_RANDOM_PLIES = 4  # that a game begins with, so that no two are the same
NUM_AT_ONCE = 20

_WORTH = {chess.PAWN: 1, chess.KNIGHT: 3, chess.BISHOP: 3, chess.ROOK: 5, chess.QUEEN: 9, chess.KING: 0}
_Z_95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


class Player(Protocol):
    """Chooses a legal move."""

    async def __call__(self, board: chess.Board, /) -> chess.Move:
        """The board has one, and must be left as it is; raises BenchError."""


@dataclass(frozen=True, slots=True)
class Searcher:
    """Plays what the tree search finds."""

    network: Network
    effort: Effort

    async def __call__(self, board: chess.Board) -> chess.Move:
        """See best_move."""
        return await best_move(board, self.network, self.effort)


@dataclass(frozen=True, slots=True)
class RandomPlayer:
    """Plays any legal move."""

    rng: random.Random

    async def __call__(self, board: chess.Board) -> chess.Move:
        """Each with the same probability."""
        return self.rng.choice(list(board.legal_moves))


@dataclass(frozen=True, slots=True)
class GreedyPlayer:
    """Plays the move that gains most material at once; one of several at random."""

    rng: random.Random

    async def __call__(self, board: chess.Board) -> chess.Move:
        """What the opponent takes back isn't looked at."""
        gains = {move: _gain(board, move) for move in board.legal_moves}
        most = max(gains.values())
        return self.rng.choice([move for move, gain in gains.items() if gain == most])


@dataclass(frozen=True, slots=True)
class Opponent:
    """Whom the search plays against: a new player for each game, with random numbers of that game's own."""

    name: str
    player: Callable[[random.Random], Player]


RANDOM, GREEDY = Opponent("random", RandomPlayer), Opponent("greedy", GreedyPlayer)


class Match(Document):
    """Games of the search against one opponent, from the search's side."""

    opponent: str
    won: int
    drawn: int
    lost: int
    mean_plies: float

    @property
    def num_games(self) -> int:
        """All of them."""
        return self.won + self.drawn + self.lost

    @property
    def score(self) -> float:
        """Share of the points; a draw is half a point."""
        return (self.won + self.drawn / 2) / self.num_games

    @property
    def interval(self) -> tuple[float, float]:
        """The score's 95 % interval, Wilson's (JASA 22, 1927); rather too wide, as draws make points vary less."""
        p, n, zz = self.score, self.num_games, _Z_95**2
        centre = (p + zz / (2 * n)) / (1 + zz / n)
        half = _Z_95 * math.sqrt(p * (1 - p) / n + zz / (4 * n * n)) / (1 + zz / n)
        return max(0.0, centre - half), min(1.0, centre + half)


async def play_match(
    opponent: Opponent, searcher: Player, num_games: int, seed: int, on_game: Callable[[], None] = lambda: None
) -> Match:
    """Play that many games, some at once; raises BenchError when a move can't be had.

    Games come in pairs that begin with the same random moves, so that each side is the search's once.
    """
    together = asyncio.Semaphore(NUM_AT_ONCE)

    async def one(number: int) -> tuple[float, int]:
        async with together:
            board = opening(random.Random(f"{seed} {number // 2}"))  # noqa: S311 - nothing is kept secret by it
            other = opponent.player(random.Random(f"{seed} {opponent.name} {number}"))  # noqa: S311
            white, black = (searcher, other) if number % 2 == 0 else (other, searcher)
            points = await play(board, white, black)
            on_game()
            return points if number % 2 == 0 else 1 - points, board.ply()

    try:
        async with asyncio.TaskGroup() as group:
            games = [group.create_task(one(number)) for number in range(num_games)]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    points, plies = zip(*(game.result() for game in games), strict=True)
    return Match(
        opponent=opponent.name,
        won=points.count(1.0),
        drawn=points.count(0.5),
        lost=points.count(0.0),
        mean_plies=sum(plies) / num_games,
    )


def opening(rng: random.Random) -> chess.Board:
    """A board after a few random moves, the game not over."""
    while True:
        board = chess.Board()
        for _ in range(NUM_RANDOM_PLIES):
            board.push(rng.choice(list(board.legal_moves)))
            if board.is_game_over():
                break
        else:
            return board


async def play(board: chess.Board, white: Player, black: Player) -> float:
    """Play to the end on the board; white's points. Repetition, 50 moves and the length limit are draws."""
    while board.ply() < MAX_PLIES and not board.is_game_over() and not _drawn(board):
        board.push(await (white if board.turn else black)(board))
    outcome = board.outcome()
    return 0.5 if outcome is None or outcome.winner is None else float(outcome.winner)


def _drawn(board: chess.Board) -> bool:
    return board.is_repetition(3) or board.is_fifty_moves()


def _gain(board: chess.Board, move: chess.Move) -> int:
    prey = chess.PAWN if board.is_en_passant(move) else board.piece_type_at(move.to_square)
    taken = _WORTH[prey] if prey else 0
    return taken + (_WORTH[move.promotion] - 1 if move.promotion else 0)
