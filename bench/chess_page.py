"""The games as a table on the screen, and as `docs/chess.md`."""

from collections.abc import Iterator
from pathlib import Path

from bench.chess_run import ChessResult
from bench.game import MAX_PLIES, NUM_AT_ONCE, NUM_RANDOM_PLIES, Match
from bench.page import table

PAGE = "chess.md"
COLUMNS = ("opponent", "games", "won", "drawn", "lost", "score", "95 % interval", "plies a game")


def cells(match: Match) -> tuple[str, ...]:
    """One match."""
    low, high = match.interval
    counts = (match.num_games, match.won, match.drawn, match.lost)
    return (
        match.opponent,
        *map(str, counts),
        f"{match.score:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{match.mean_plies:.0f}",
    )


def write(result: ChessResult, docs: Path) -> None:
    """Write the page into the folder."""
    docs.mkdir(parents=True, exist_ok=True)
    (docs / PAGE).write_text("\n".join(_lines(result)) + "\n", encoding="utf-8")


def _lines(result: ChessResult) -> Iterator[str]:
    effort, machine = result.effort, result.machine
    how = "in ONNX Runtime, without servers" if result.mean_batch is None else "through the gateway"
    yield _HEAD
    yield f"- taken on {machine.date} by `{result.command}`: {machine.processor}, {machine.num_cores} cores"
    yield f"- model `{result.model}` version {result.version}, asked {how}"
    yield f"- a move is {effort.num_simulations} simulations, up to {effort.num_together} positions asked about at once"
    yield f"- {NUM_AT_ONCE} games at once\n"
    yield table(COLUMNS, map(cells, result.matches))
    yield (
        f"\n{result.num_positions:,} positions in {result.num_requests:,} requests were answered in "
        f"{result.wall_s:,.0f} s, in which the opponents thought too: "
        f"{result.num_positions / result.num_requests:.1f} a request{_batches(result)}.\n"
    )
    yield _FOOT


def _batches(result: ChessResult) -> str:
    if result.mean_batch is None:
        return ""
    return f" and {result.mean_batch:.1f} a call to Triton, as the gateway gathers what different games ask"


_HEAD = f"""\
# Chess

Written by `python -m bench chess`; don't edit.

A tree search asks in a way that no load generator does: many small requests, each waited for, from many games at once.
This one plays chess with `chess-policy-value`, a network of the kind of AlphaZero (arXiv 1712.01815) that was taught by
a book of masters' games and by a shallow search, not by playing against itself. It searches with PUCT and asks the
gateway for the moves and the value of each position, in the Open Inference Protocol over gRPC.

Two opponents know little: one plays any legal move, the other the move that gains most material at once. A search sees
mates without any network, so beating these two doesn't show that the network is worth anything. The third is the
control: the very same search with as many simulations a move and no network. To it all moves are equally likely and all
positions even, but for those in which the game is over; between equal moves chance decides.

A game begins with {NUM_RANDOM_PLIES} random moves, the same ones for two games in which the sides are changed. A
position that comes for the third time, fifty moves without capture or pawn, and {MAX_PLIES} plies are draws; a draw is
half a point.

## Results
"""
_FOOT = """\
What this says: all of it works together, and the search is better than players that look one move ahead. What it
scores above a half against the same search without a network is what the network adds, moves and values together; which
of the two adds how much isn't told apart. Nothing here says how strong the search is beside a person or a chess engine,
which nobody measured.

What the network guesses without a search is measured by itself: its accuracy is in [the table of recipes](recipes.md),
its value's correlation in its contract. Both would likely be lower in games of which it saw nothing. No position that
they are taken on was learned from, but positions were divided one by one, not by games: of those one move before or
after, about nine in ten were learned from. How much that flatters nobody measured.

## Ask it yourself

A position is asked for as the text that chess programs exchange (FEN):

    $ tidegate predict chess 'r1bqkbnr/pppp1ppp/2n5/4p3/2B1P3/5Q2/PPPP1PPP/RNB1K1NR w KQkq - 4 4'

The moves are written as the Universal Chess Interface does. The rules by which pieces move are in the graph, so no
other move gets any confidence; that a king may not be left in check is the client's to know. The value is the model's
second output: V2 clients get both. A text that is no position (two white kings, a rank of nine squares, letters that
are no pieces) becomes an unknown token: every move gets the same tiny confidence, and the drift counters see
`unknown_ratio`.
"""
