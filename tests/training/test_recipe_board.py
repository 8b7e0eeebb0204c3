"""Chess as tensors beside python-chess, which is right, and what becomes of a text that is no position."""

import random
import struct
from pathlib import Path
from typing import Any

import chess
import numpy as np
import pytest
import torch
from chess.polyglot import zobrist_hash

from contract import Repository
from contract.digest import artifact
from contract.golden import Golden
from contract.observation import build_profile
from contract.postprocess import interpret
from tests.gateway.conftest import running_gateway
from training.dataset import board as data
from training.dataset.board_search import after_captures, after_moves
from training.export import export
from training.forward import predict
from training.network.chess_rule import BY_BLACK, BY_WHITE, LABELS, MOVES, UNKNOWN_ID, Movement, View
from training.network.policy_value import PolicyValueNetwork
from training.recipes.board_game import CHESS

TOKENIZER = data.make_tokenizer()
LONG = "r3k2r/pPppqpb1/bn2pnp1/3PN3/1p2P3/2N2Q1p/P1PPBPPP/R3K2R w KQkq - 0 1"  # castling, a promotion, pins
NO_POSITIONS = (
    "",
    "hello",
    "Ваш ход",
    "4k3/8/8/8/8/8/8/KK6 w - - 0 1",  # two white kings
    "8/8/8/8/8/8/8/K7 w - - 0 1",  # no black king
    "4k3/9/8/8/8/8/8/K7 w - - 0 1",  # nine squares in a rank
    "4k3/8/8/8/8/8/K7 w - - 0 1",  # seven ranks
    "4k3/8/8/8/8/8/8/K6P w - - 0 1",  # a pawn where none can be
    "4k3/8/8/3x4/8/8/8/K7 w - - 0 1",  # no piece
    "4k3/8/8/8/8/8/8/K7 white - - 0 1",
    "4k3/8/8/8/8/8/8/K7 w qK - 0 1",
    "4k3/8/8/8/8/8/8/K7",  # whose move
)


@pytest.fixture(scope="module")
def network() -> PolicyValueNetwork:
    torch.manual_seed(1)
    return PolicyValueNetwork(width=8, num_blocks=1, value_width=8).eval()


def some_boards(num: int, seed: int) -> list[chess.Board]:
    """From games of random moves."""
    rng, found = random.Random(seed), [chess.Board(LONG)]
    while len(found) < num:
        board = chess.Board(LONG) if rng.random() < 0.3 else chess.Board()
        for _ in range(rng.randrange(150)):
            if board.is_game_over():
                break
            board.push(rng.choice(list(board.legal_moves)))
            found.append(board.copy(stack=False))
    return found[:num]


def ids_of(boards: list[chess.Board]) -> Any:
    return data.encode(TOKENIZER, [board.fen() for board in boards])


def test_moves_are_those_that_the_pieces_can_make() -> None:
    boards = some_boards(500, seed=1)
    pieces, rights, file, white = View()(torch.from_numpy(ids_of(boards)))
    possible = torch.nn.functional.pad(Movement()(pieces, rights, file), (0, 1))
    by_label = torch.where(white, possible[:, BY_WHITE], possible[:, BY_BLACK])
    assert len(set(LABELS)) == len(LABELS) == 1968
    for board, row in zip(boards, by_label, strict=True):
        shown = {LABELS[i] for i in row.nonzero()[:, 0].tolist()}
        known = {move.uci() for move in board.pseudo_legal_moves}
        assert {move.uci() for move in board.legal_moves} <= shown, board.fen()
        # A FEN doesn't name the en passant square where taking there is illegal, and castling isn't looked at closely.
        between = {m for m in shown ^ known if m not in ("e1g1", "e1c1", "e8g8", "e8c8")}
        assert all(board.is_en_passant(chess.Move.from_uci(move)) for move in between), board.fen()


def test_playing_a_move_is_what_it_is_on_a_real_board() -> None:
    before = [board for board in some_boards(500, seed=2) if not board.is_game_over()]
    moves = [random.Random(i).choice(list(board.legal_moves)) for i, board in enumerate(before)]
    after = [board.copy() for board in before]
    for board, move in zip(after, moves, strict=True):
        board.push(move)
    numbers = [(BY_WHITE if b.turn else BY_BLACK)[LABELS.index(m.uci())] for b, m in zip(before, moves, strict=True)]
    played, expected = data.boards_of(ids_of(before)).play(torch.tensor(numbers)), data.boards_of(ids_of(after))
    assert torch.equal(played.contents, expected.contents)
    assert torch.equal(played.rights, expected.rights)
    named = expected.files.sum(dim=1) > 0  # a FEN names the file only where there is a pawn that can take
    assert torch.equal(played.files[named], expected.files[named])


@pytest.mark.parametrize(
    ("fen", "low", "high"),
    [
        ("4k3/8/8/3q4/4P3/8/8/4K3 w - - 0 1", 0.5, 5.0),  # a pawn takes the queen
        ("4k3/8/8/3q4/4P3/8/8/4K3 b - - 0 1", 5.0, 12.0),
        ("4k3/2p5/3p4/8/8/3Q4/8/4K3 w - - 0 1", 5.0, 12.0),  # to take the pawn would lose the queen
    ],
)
def test_exchanges_are_played_out_before_material_is_counted(fen: str, low: float, high: float) -> None:
    boards = data.boards_of(data.encode(TOKENIZER, [fen]))
    assert low < after_captures(boards, 2).item() < high


def test_every_legal_move_has_a_worth_and_no_other() -> None:
    boards = [board for board in some_boards(40, seed=3) if not board.is_game_over()]
    worth = after_moves(data.boards_of(ids_of(boards)), 1)
    for board, row in zip(boards, worth, strict=True):
        by = (BY_WHITE if board.turn else BY_BLACK).index
        shown = [chess.Move.from_uci(LABELS[by(i)]) for i in row.isfinite().nonzero()[:, 0].tolist()]
        assert set(board.legal_moves) <= set(shown)
        # Whether the king passes an attacked square is all that isn't looked at.
        assert all(board.is_legal(move) or board.is_castling(move) for move in shown)


def test_a_colour_is_as_good_as_the_other(network: PolicyValueNetwork) -> None:
    boards = some_boards(40, seed=4)
    with torch.inference_mode():
        policy, value = network(torch.from_numpy(ids_of(boards)))
        other, same = network(torch.from_numpy(ids_of([board.mirror() for board in boards])))
    mirror = [LABELS.index(_mirrored(label)) for label in LABELS]
    torch.testing.assert_close(other[:, mirror], policy)
    torch.testing.assert_close(same, value)


def test_a_position_is_answered_alike_whatever_is_asked_beside_it(network: PolicyValueNetwork) -> None:
    ids = torch.from_numpy(ids_of(some_boards(20, seed=5)))
    with torch.inference_mode():
        together, alone = network(ids), network(ids[7:8])
    for all_of_them, one in zip(together, alone, strict=True):
        torch.testing.assert_close(all_of_them[7:8], one)


def test_a_fen_is_read_however_it_is_written() -> None:
    ways = ("{} w KQkq - 0 1", "{} w KQkq -", "{} w KQkq", "  {}  w KQkq -\n")
    board = chess.STARTING_FEN.split()[0]
    ids = data.encode(TOKENIZER, [way.format(board) for way in ways])
    assert all((row[: 64 + 5] == ids[0][: 64 + 5]).all() for row in ids)
    passing = "rnbqkbnr/ppp1pppp/8/3pP3/8/8/PPPP1PPP/RNBQKBNR w KQkq d6 0 3"
    assert data.boards_of(data.encode(TOKENIZER, [passing])).files[0].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert data.make_tokenizer().to_str() == TOKENIZER.to_str()


def test_what_is_written_of_a_position_is_read_again() -> None:
    boards = data.boards_of(ids_of(some_boards(200, seed=6)))
    for white in (True, False):
        again = data.boards_of(data.encode(TOKENIZER, data.fens(boards, torch.full((200,), white))))
        assert torch.equal(again.contents, boards.contents)
        assert torch.equal(again.rights, boards.rights)
        assert torch.equal(again.files, boards.files)


def test_a_book_is_walked_along_its_legal_moves() -> None:
    first, line = chess.Board(), ["e2e4", "e7e5", "g1f3", "b8c6", "f1c4", "f8c5", "e1g1"]
    entries: list[bytes] = []
    for move in line:
        entries.append(_entry(first, "e1h1" if move == "e1g1" else move, 3))
        if move == "g1f3":
            entries += [_entry(first, "f1c4", 9), _entry(first, "e1e8", 7)]  # another one, and one that is illegal
        first.push_uci(move)
    entries.append(_entry(chess.Board("4k3/8/8/8/8/8/8/K7 w - - 0 1"), "a1a2", 1))  # no game comes here
    texts, moves = data.walk(b"".join(sorted(entries)))
    assert len(texts) == 7
    assert chess.Board(f"{texts[-1]} 0 1").fullmove_number == 1
    assert LABELS[int(moves[-1, 0, 0])] == "e1g1"
    third = texts.index("rnbqkbnr/pppp1ppp/8/4p3/4P3/8/PPPP1PPP/RNBQKBNR w KQkq -")
    shown = [(LABELS[int(label)], weight) for label, weight in moves[third] if weight]
    assert shown == [("f1c4", 0.75), ("g1f3", 0.25)]


def test_games_beside_the_book_become_unbalanced_and_no_position_is_in_two_splits() -> None:
    book = data.boards_of(ids_of(some_boards(50, seed=7)))
    texts, targets = data.games(book, 16, 8)
    again, _ = data.games(book, 16, 8)
    assert texts == again
    assert np.abs(targets["value"]).max() > 0.5
    np.testing.assert_allclose(targets["moves"][..., 1].sum(axis=1), 1, rtol=1e-5)
    for text, moves in zip(texts, targets["moves"], strict=True):
        board = chess.Board(f"{text} 0 1")
        ways = [chess.Move.from_uci(LABELS[int(label)]) for label, weight in moves if weight > 0]
        assert ways
        assert all(board.is_legal(move) or board.is_castling(move) for move in ways)
    mirrored = [chess.Board(f"{text} 0 1").mirror().epd() for text in texts]
    ids = data.encode(TOKENIZER, texts + mirrored)
    dataset = data.split(ids, np.concatenate((targets, targets)), "0" * 64, TOKENIZER)
    seen = []
    for part in (dataset.train, dataset.validation, dataset.test):
        boards = data.boards_of(part.inputs["ids"])
        seen.append({tuple(row) for row in torch.cat((boards.contents, boards.rights, boards.files), dim=1).tolist()})
    assert all(seen)
    assert len(set.union(*seen)) == sum(map(len, seen))


def test_the_measures_count_the_books_moves_alone() -> None:
    targets = np.zeros(3, dtype=[("moves", "f4", (8, 2)), ("value", "f4", (1,)), ("of_book", "?")])
    targets["moves"][:, :2] = [[5, 0.5], [7, 0.5]]  # two moves, as often as one another
    targets["value"][:, 0], targets["of_book"] = (0.1, 0.5, -0.5), (True, True, False)
    policy = np.zeros((3, len(LABELS)), np.float32)
    policy[[0, 1, 2], [7, 100, 100]] = 5
    assert CHESS.metrics is not None
    first, fifth, correlation, error = CHESS.metrics({"policy": policy, "value": targets["value"] + 0.25}, targets)
    assert (first.metric.value, first.metric.num_samples) == (0.5, 2)
    assert fifth.metric.value == 0.5
    assert correlation.metric.value == pytest.approx(1)
    assert error.metric.value == pytest.approx(0.25)


@pytest.mark.parametrize("text", NO_POSITIONS)
def test_what_is_no_position_is_one_unknown_token(text: str) -> None:
    tokens = data.encode(TOKENIZER, [text])[0]
    assert tokens[0] == (UNKNOWN_ID if text else 0)
    assert not tokens[1:].any()


async def test_the_gateway_answers_a_fen_with_moves_and_counts_what_is_none(
    tmp_path: Path, make_version: Any, network: PolicyValueNetwork
) -> None:
    publish(tmp_path, make_version, network)
    async with running_gateway(Repository(tmp_path)) as gateway:
        asked = {"texts": [LONG, *NO_POSITIONS]}
        answer = await gateway.client.post("/v1/models/chess/predict", json=asked)
        assert answer.status_code == 200, answer.text
        position, *others = answer.json()["predictions"]
        board = chess.Board(LONG)
        assert all(chess.Move.from_uci(move["label"]) in board.pseudo_legal_moves for move in position["top"])
        assert len(others) == len(NO_POSITIONS)
        assert all(other["confidence"] == pytest.approx(1 / len(LABELS), rel=1e-3) for other in others)
        await gateway.settle()
        counts = {
            tail: gateway.metric("inference_feature_bin_total", model="chess", feature="unknown_ratio", tail=tail)
            for tail in ("", "1")
        }
        assert counts["1"] == len(NO_POSITIONS) - 1  # the empty text has no token at all; its length shows it
        bodies: list[Any] = [{"texts": [7]}, {"texts": [None]}, {"text": []}]
        for wrong in bodies:
            refused = await gateway.client.post("/v1/models/chess/predict", json=wrong)
            assert refused.status_code == 400, refused.text
            assert refused.json()["error"].count("\n") == 0


def publish(root: Path, make_version: Any, network: PolicyValueNetwork) -> None:
    """The recipe's contract with a network that learned nothing."""
    ids = ids_of(some_boards(200, seed=8))
    outputs = predict(network, {"ids": ids}, CHESS.inputs, CHESS.outputs)
    folder = root / "chess" / "1"
    changes = {
        "inputs": CHESS.inputs,
        "outputs": CHESS.outputs,
        "batch": CHESS.batch,
        "preprocess": CHESS.preprocess,
        "postprocess": CHESS.postprocess,
        "profile": build_profile(
            CHESS.preprocess, CHESS.postprocess, {"ids": ids}, {}, interpret(CHESS.postprocess, outputs)
        ),
    }
    contract = make_version(root, "chess", task=CHESS.task, **changes)
    export(network, CHESS.inputs, CHESS.outputs, CHESS.batch, folder / "model.onnx")
    Golden({"ids": ids[:2]}, {name: array[:2] for name, array in outputs.items()}).save(folder)
    (folder / data.TOKENIZER_FILE).write_text(TOKENIZER.to_str())
    files = {"model.onnx": "model", "golden.npz": "golden", data.TOKENIZER_FILE: "tokenizer"}
    artifacts = tuple(artifact(folder, name, role) for name, role in files.items())
    contract.model_copy(update={"artifacts": artifacts}).save(folder)


def _entry(board: chess.Board, move: str, weight: int) -> bytes:
    """A move as Polyglot writes it."""
    way = chess.Move.from_uci(move)
    return struct.pack(">QHHI", zobrist_hash(board), way.from_square << 6 | way.to_square, weight, 0)


def _mirrored(label: str) -> str:
    return label[0] + str(9 - int(label[1])) + label[2] + str(9 - int(label[3])) + label[4:]


def test_a_pawn_becomes_each_piece_and_no_move_is_named_twice() -> None:
    assert {label[4:] for label in LABELS} == {"", "q", "r", "b", "n"}
    assert len(set(MOVES)) == len(MOVES) == 1880
    assert sorted(BY_WHITE)[:1880] == sorted(BY_BLACK)[:1880] == list(range(1880))
