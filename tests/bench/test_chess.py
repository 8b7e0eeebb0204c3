"""The tree search, and the games that it plays, with networks that know little."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chess
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from rich.console import Console

from bench.chess_run import Plan, control, run
from bench.error import BenchError
from bench.game import GREEDY, RANDOM, GreedyPlayer, Match, RandomPlayer, Searcher, opening, play, play_match
from bench.game_network import NoNetwork, Position, ServedNetwork
from bench.tree import Array, Effort, Network, best_move
from contract import Contract, Repository
from contract.profile import Profile
from tests.port import free_ports
from training.dataset.board import TOKENIZER_FILE, make_tokenizer
from training.recipes.board_game import CHESS

LITTLE = Effort(num_simulations=8, num_together=4)
WORTH = {"p": 1, "n": 3, "b": 3, "r": 5, "q": 9}
COLUMNS = {
    chess.Move(start, end, promotion).uci(): index
    for index, (start, end, promotion) in enumerate(
        (start, end, promotion)
        for start in range(64)
        for end in range(64)
        for promotion in (None, chess.QUEEN, chess.ROOK, chess.BISHOP, chess.KNIGHT)
        if start != end
    )
}


class Counting:
    """Finds every move as good as another, and counts material."""

    columns = COLUMNS

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def ask(self, fens: Sequence[str]) -> tuple[Array, Array]:
        self.sizes.append(len(fens))
        values = [_material(fen) / 40 for fen in fens]
        return np.zeros((len(fens), len(COLUMNS)), dtype=np.float32), np.array(values)


class Broken(Counting):
    """Answers twice, then no more."""

    async def ask(self, fens: Sequence[str]) -> tuple[Array, Array]:
        if len(self.sizes) == 2:
            raise BenchError("the gateway didn't answer: it is gone")
        return await super().ask(fens)


def _material(fen: str) -> float:
    board, side = fen.split()[:2]
    white = sum(WORTH.get(letter.lower(), 0) * (1 if letter.isupper() else -1) for letter in board)
    return white if side == "w" else -white


@pytest.mark.parametrize(
    ("fen", "mate"),
    [
        ("6k1/5ppp/8/8/8/8/8/R5K1 w - - 0 1", "a1a8"),
        ("r1bqkbnr/pppp1ppp/2n5/4p3/2B1P3/5Q2/PPPP1PPP/RNB1K1NR w KQkq - 4 4", "f3f7"),
        ("rnbqkbnr/pppp1ppp/8/4p3/6P1/5P2/PPPPP2P/RNBQKBNR b KQkq - 0 2", "d8h4"),
    ],
)
async def test_it_mates_when_it_can(fen: str, mate: str) -> None:
    assert (await best_move(chess.Board(fen), Counting(), Effort())).uci() == mate


@pytest.mark.parametrize("network", [Counting(), NoNetwork(COLUMNS, random.Random(1))], ids=["counting", "none"])
async def test_it_mates_in_two_moves_by_searching(network: Network) -> None:
    board = chess.Board("7k/8/5K2/8/8/8/8/6Q1 w - - 0 1")  # a quiet move first
    board.push(await best_move(board, network, Effort(num_simulations=600)))
    for reply in list(board.legal_moves):
        board.push(reply)
        assert any(_mated(board, move) for move in board.legal_moves)
        board.pop()


async def test_it_takes_a_queen_but_not_a_protected_pawn() -> None:
    effort = Effort(num_simulations=300)
    free = chess.Board("4k3/8/8/3q4/4P3/8/8/4K3 w - - 0 1")
    assert (await best_move(free, Counting(), effort)).uci() == "e4d5"
    protected = chess.Board("4k3/2p5/3p4/8/8/3Q4/8/4K3 w - - 0 1")
    assert (await best_move(protected, Counting(), effort)).uci() != "d3d6"


async def test_a_position_that_came_before_is_searched_as_any_other() -> None:
    board = chess.Board("6k1/8/8/3q4/4P3/8/8/R5K1 w - - 0 1")  # the queen is worth more than a draw
    for move in ("g1h1", "g8h8", "h1g1", "h8g8"):
        board.push_uci(move)
    network = Counting()
    assert (await best_move(board, network, Effort(num_simulations=300))).uci() == "e4d5"
    assert sum(network.sizes) > 100


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 40))
def test_any_search_plays_a_legal_move_and_leaves_the_board_as_it_was(seed: int, simulations: int, many: int) -> None:
    board, rng = chess.Board(), random.Random(seed)
    for _ in range(rng.randrange(120)):
        if len(moves := list(board.legal_moves)) == 0:
            return
        board.push(rng.choice(moves))
    if board.legal_moves.count() == 0:
        return
    before, network = board.fen(), Counting()
    move = asyncio.run(best_move(board, network, Effort(num_simulations=simulations, num_together=many)))
    assert move in board.legal_moves
    assert board.fen() == before
    assert sum(network.sizes) <= simulations + 1
    assert max(network.sizes, default=0) <= many


async def test_positions_are_asked_about_together() -> None:
    network = Counting()
    await best_move(chess.Board(), network, Effort(num_simulations=96, num_together=16))
    assert network.sizes == [1] + [16] * 6


async def test_games_of_a_seed_are_the_same_again() -> None:
    matches = [await play_match(GREEDY, Searcher(Counting(), LITTLE), 2, seed) for seed in (1, 1, 2)]
    assert matches[0] == matches[1] != matches[2]


async def test_without_a_network_every_move_is_as_likely_and_every_position_even() -> None:
    logits, values = await NoNetwork(COLUMNS, random.Random(1)).ask([chess.STARTING_FEN] * 3)
    assert (logits.shape, values.shape) == ((3, len(COLUMNS)), (3,))
    assert np.exp(np.ptp(logits)) == pytest.approx(1, abs=1e-5)
    assert values == pytest.approx(0, abs=1e-5)


async def test_without_a_network_chance_decides_between_moves() -> None:
    """The same numbers give the same move; not every game begins with the move that the rules name first."""
    firsts = [
        await best_move(chess.Board(), NoNetwork(COLUMNS, random.Random(seed)), Effort()) for seed in (1, 1, 2, 3, 4)
    ]
    assert firsts[0] == firsts[1]
    assert len(set(firsts[1:])) == 4


def test_the_control_searches_as_much() -> None:
    player = control(COLUMNS, LITTLE).player(random.Random(1))
    assert isinstance(player, Searcher)
    assert player.effort == LITTLE
    assert isinstance(player.network, NoNetwork)


async def test_a_pair_of_games_begins_alike_and_each_side_is_its_once() -> None:
    seen: list[tuple[str, bool]] = []

    class First:
        """Notes the first position it is asked in, and resigns itself to chance."""

        async def __call__(self, board: chess.Board) -> chess.Move:
            begun = board.copy()
            while begun.ply() > 4:
                begun.pop()
            seen.append((begun.fen(), board.turn))
            return next(iter(board.legal_moves))

    await play_match(RANDOM, First(), 2, seed=3)
    assert len({fen for fen, _ in seen}) == 1
    assert {turn for _, turn in seen} == {chess.WHITE, chess.BLACK}


async def test_a_request_that_fails_ends_the_match_with_its_sentence() -> None:
    with pytest.raises(BenchError, match=r"^the gateway didn't answer: it is gone$"):
        await play_match(RANDOM, Searcher(Broken(), LITTLE), 6, seed=1)


async def test_the_greedy_player_takes_what_is_worth_most() -> None:
    greedy = GreedyPlayer(random.Random(1))
    assert (await greedy(chess.Board("4k3/8/8/3q1p2/4P3/8/8/4K3 w - - 0 1"))).uci() == "e4d5"
    assert (await greedy(chess.Board("8/P6k/8/8/8/8/7r/4K3 w - - 0 1"))).uci() == "a7a8q"
    assert (await greedy(chess.Board("4k3/8/8/3pP3/8/8/8/4K3 w - d6 0 1"))).uci() == "e5d6"


async def test_a_game_that_goes_nowhere_is_a_draw() -> None:
    class Shuffling:
        """Moves a knight out and back."""

        async def __call__(self, board: chess.Board) -> chess.Move:
            return min(board.legal_moves, key=lambda m: (board.piece_type_at(m.from_square) != chess.KNIGHT, m.uci()))

    board = chess.Board("6nk/8/8/8/8/8/8/KN3R2 w - - 0 1")
    assert await play(board, Shuffling(), RandomPlayer(random.Random(1))) == 0.5
    lost = chess.Board("rnb1kbnr/pppp1ppp/8/4p3/6Pq/5P2/PPPPP2P/RNBQKBNR w KQkq - 1 3")
    assert await play(lost, Shuffling(), Shuffling()) == 0.0


def test_openings_are_of_the_seed() -> None:
    fens = [opening(random.Random(seed)).fen() for seed in (1, 1, 2)]
    assert fens[0] == fens[1] != fens[2]


def test_the_interval_is_wilsons() -> None:
    all_won = Match(opponent="random", won=100, drawn=0, lost=0, mean_plies=50)
    assert all_won.interval == pytest.approx((0.9630, 1.0), abs=1e-4)
    half = Match(opponent="random", won=40, drawn=20, lost=40, mean_plies=50)
    assert half.score == 0.5
    assert half.interval == pytest.approx((0.4038, 0.5962), abs=1e-4)


def _mated(board: chess.Board, move: chess.Move) -> bool:
    board.push(move)
    mated = board.is_checkmate()
    board.pop()
    return mated


def publish_without_graph(root: Path, make_version: Any) -> Contract:
    """The recipe's contract, with what turns a FEN into tokens."""
    contract: Contract = make_version(
        root,
        "chess",
        task=CHESS.task,
        inputs=CHESS.inputs,
        outputs=CHESS.outputs,
        batch=CHESS.batch,
        preprocess=CHESS.preprocess,
        postprocess=CHESS.postprocess,
        profile=Profile(),
    )
    (root / "chess" / "1" / TOKENIZER_FILE).write_text(make_tokenizer().to_str())
    return contract


async def test_a_gateway_that_is_gone_is_said_in_one_sentence(tmp_path: Path, make_version: Any) -> None:
    position = Position(publish_without_graph(tmp_path, make_version), tmp_path / "chess" / "1")
    assert position.tokens([chess.STARTING_FEN]).shape == (1, 71)
    network = ServedNetwork(position, f"127.0.0.1:{free_ports(1)[0]}")
    try:
        with pytest.raises(BenchError, match=r"the gateway didn't answer what chess thinks of a position: [^\n]+$"):
            await network.ask([chess.STARTING_FEN])
    finally:
        await network.close()


def test_a_model_of_another_kind_plays_no_chess(tiny_repository: Repository) -> None:
    with pytest.raises(BenchError, match=r"expected a model that takes positions .* got tiny"):
        Position(tiny_repository.contract("tiny", 1), tiny_repository.version_dir("tiny", 1))


def test_without_a_published_model_it_says_what_to_do(tmp_path: Path) -> None:
    plan = Plan(repository=tmp_path, num_games=1, effort=Effort(), local=True, command="")
    with pytest.raises(BenchError, match="tidegate train chess-policy-value"):
        run(plan, Console(quiet=True))


def test_every_opponent_is_played(tmp_path: Path, make_version: Any) -> None:
    publish_without_graph(tmp_path, make_version)
    save_graph(tmp_path / "chess" / "1" / "model.onnx")
    plan = Plan(repository=tmp_path, num_games=2, effort=LITTLE, local=True, command="")
    result = run(plan, Console(quiet=True))
    assert [(match.opponent, match.num_games) for match in result.matches] == [
        ("random", 2),
        ("greedy", 2),
        ("the same search, no network", 2),
    ]
    assert result.num_positions > result.num_requests > 0


def save_graph(path: Path) -> None:
    """Answers zeros to every position."""
    ((ids, shape),) = ((spec.name, spec.shape) for spec in CHESS.inputs)
    (policy, num_moves), (value, _) = ((spec.name, spec.shape[0]) for spec in CHESS.outputs)
    zeros = [
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("no_moves", TensorProto.FLOAT, [1, num_moves], [0.0] * num_moves),
        helper.make_tensor("no_value", TensorProto.FLOAT, [1, 1], [0.0]),
    ]
    nodes = [
        helper.make_node("Cast", [ids], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats", "axis"], ["sums"]),
        helper.make_node("Mul", ["sums", "no_moves"], [policy]),
        helper.make_node("Mul", ["sums", "no_value"], [value]),
    ]
    graph = helper.make_graph(
        nodes,
        "zeros",
        [helper.make_tensor_value_info(ids, TensorProto.INT32, ["n", *shape])],
        [
            helper.make_tensor_value_info(policy, TensorProto.FLOAT, ["n", num_moves]),
            helper.make_tensor_value_info(value, TensorProto.FLOAT, ["n", 1]),
        ],
        zeros,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
