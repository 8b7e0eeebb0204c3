"""Chess positions with the moves that masters played, and what a shallow search thinks of them. Public domain.

GNU Chess's opening book (Debian `gnuchess-book` 1.02, made by Stuart Cracraft and Simon Waters of public games) in
Polyglot's format: http://hgm.nubati.net/book_format.html. A book holds keys (Zobrist 1970), not boards, so boards are
found by walking it from the first position along its moves: that reaches 112,294 of its 149,694 positions, as deep as
128 plies. What a master played there is the policy's target, by the book's weights.

The book holds no results of games, so the value's target is no result either: it is what `board_search`, a small
evaluation of our own after captures, says of the position, squeezed into -1 to 1. A book's positions are balanced, and
from them alone neither head would learn what a lost queen means. So there are also positions that games from the book's
come to when half of the moves are random and half the search's own; there the search's moves are the policy's target.

A position, with its side to move, castling rights and en passant square, is in one split only, whatever moves led to
it, and so it is with the colours exchanged. Its neighbours in a game are divided by themselves: of those one ply from a
test position about nine in ten are in training, which likely flatters what is measured there. How much isn't known.
"""

import hashlib
import re
import struct
from collections import defaultdict, deque
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from training.data import Dataset, Split, several
from training.dataset.board_search import Boards, after_captures, after_moves
from training.durable import write_atomically
from training.network.chess_rule import (
    BY_BLACK,
    BY_WHITE,
    IDS,
    LABELS,
    MAX_LENGTH,
    MOVES,
    NUM_SQUARES,
    PAD_ID,
    PIECES,
    UNKNOWN_ID,
    VOCABULARY,
    View,
)
from training.package import Package
from training.source import cache_dir

if TYPE_CHECKING:
    import chess

BOOK = Package(
    manager="debian",
    name="gnuchess-book",
    version="1.02-2.1",
    members=("usr/share/games/gnuchess/book.bin",),
    sha256="8c176986c020d891890ab624e4235f224a58dfab186d02fe11e973e32b835c8c",
    licence="public domain",
)
TOKENIZER_FILE = "tokenizer.json"
NUM_TARGETS = 8  # moves of a position that are learned, the weightiest first: 96 positions have more

SEED = 1950  # of the games beside the book; not the run's: another seed still holds the same positions out
NUM_GAMES, NUM_PLIES = 250, 100
HELD_OUT_RATIO = 0.05  # of all positions, for validation, and as many again for the test
CAPTURE_PLIES = 2  # a capture and its recapture
VALUE_SCALE_PAWNS = 5.0  # what is worth half a won game
SURENESS_PAWNS = 0.2  # a move that much worse than the best is taken for less likely by a factor of e

_RANDOM_RATIO = 0.5
_MADE_BY = (  # the form is counted up when anything else changes what comes out
    f"form=2 games={NUM_GAMES}x{NUM_PLIES} random={_RANDOM_RATIO} seed={SEED} captures={CAPTURE_PLIES} "
    f"scale={VALUE_SCALE_PAWNS} sureness={SURENESS_PAWNS} held={HELD_OUT_RATIO} targets={NUM_TARGETS}"
)
_CHUNK = 256
_ENTRY = struct.Struct(">QHHI")  # key, move, weight, and what a program learned

_TO_LABEL = [  # the label of each move, by white and by black
    torch.tensor([by.index(move) for move in range(len(MOVES))]) for by in (BY_WHITE, BY_BLACK)
]

Array = NDArray[Any]


def load(data_dir: Path | None) -> Dataset:
    """Nine in ten positions to learn from; raises DataNotFound or DataInvalid.

    Making them takes a minute of one core, so they are kept beside what was downloaded.
    """
    (content,) = BOOK.read(data_dir).values()
    identity = hashlib.sha256(f"{BOOK.digest()} {_MADE_BY}".encode()).hexdigest()
    kept = cache_dir() / f"chess-positions-{identity[:12]}.npz"
    tokenizer = make_tokenizer()
    try:
        with np.load(kept) as file:
            ids_NL, targets = file["ids"], file["targets"]
    except (OSError, KeyError, ValueError, BadZipFile):  # not there yet, or not whole
        ids_NL, targets = _positions(content, tokenizer)
        packed = BytesIO()
        np.savez_compressed(packed, ids=ids_NL, targets=targets)
        with suppress(OSError):  # without a place for a copy, they are made again
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(kept, packed.getvalue())
    return split(ids_NL, targets, identity, tokenizer)


def make_tokenizer() -> Tokenizer:
    """FEN to one token a character: digits become dots, slashes, spaces and the counters of moves are dropped.

    A text that is no position (another alphabet, a rank of nine squares, two white kings or none, a pawn on the last
    rank) becomes one unknown token, so that the gateway sees it among its drift counters.
    """
    rank = f"[.{PIECES}{PIECES.lower()}]{{8}}"
    one_king_each = "(?=[^K ]*K[^K ]* )(?=[^k ]*k[^k ]* )"
    no_pawn_outside = "(?![^/]*[Pp])(?!(?:[^/]*/){7}[^ ]*[Pp])"
    board = f"{one_king_each}{no_pawn_outside}(?:{rank}/){{7}}{rank}"
    rest = "[wb](?: (?:-|K?Q?k?q?)(?: (?:-|[a-h][36]))?)?"
    tokenizer = Tokenizer(models.WordLevel(IDS, unk_token=VOCABULARY[UNKNOWN_ID]))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Replace(Regex(r" \d+ \d+$"), ""),
            *(normalizers.Replace(Regex(rf"{digit}(?=\S* [wb])"), "." * digit) for digit in range(1, 9)),
            normalizers.Replace(Regex(f"^(?!{board} {rest}$)[\\s\\S]*$"), "?"),
            normalizers.Replace(Regex(r"[/ ]"), ""),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.enable_truncation(MAX_LENGTH)
    tokenizer.enable_padding(pad_id=PAD_ID, length=MAX_LENGTH)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> Array:
    """Token ids `[N, MAX_LENGTH]`, as the gateway makes them."""
    return np.array([encoded.ids for encoded in tokenizer.encode_batch_fast(texts)], dtype=np.int32)


def walk(content: bytes) -> tuple[list[str], Array]:
    """FENs, without counters, of a Polyglot book's positions, and their moves `[N, NUM_TARGETS, 2]`: label and weight.

    Breadth first along legal moves to positions that are in the book. A weight of 0 is no move.
    """
    import chess
    from chess.polyglot import zobrist_hash

    entries: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for key, move, weight, _ in _ENTRY.iter_unpack(content):
        entries[key].append((weight, move))
    label = {name: i for i, name in enumerate(LABELS)}
    first = chess.Board()
    seen, queue = {zobrist_hash(first)}, deque([(zobrist_hash(first), first)])
    texts, targets = [], []
    while queue:
        key, board = queue.popleft()
        moves = [(weight, _move(board, code)) for weight, code in sorted(entries[key], reverse=True)]
        moves = [(weight, move) for weight, move in moves if board.is_legal(move)]
        texts.append(board.epd())
        targets.append([(label[move.uci()], weight) for weight, move in moves])
        for _, move in moves:
            after = board.copy(stack=False)
            after.push(move)
            key = zobrist_hash(after)
            if key in entries and key not in seen:
                seen.add(key)
                queue.append((key, after))
    return texts, _padded(targets)


def boards_of(ids_NL: Array) -> Boards:
    """Positions as the search has them."""
    with torch.no_grad():
        parts = [View()(torch.from_numpy(ids_NL[i : i + _CHUNK])) for i in range(0, len(ids_NL), _CHUNK)]
        pieces_NPS, rights_N4, file_N8, _ = (torch.cat(each) for each in zip(*parts, strict=True))
        number_P1 = torch.arange(1, pieces_NPS.shape[1] + 1)[:, None]
        return Boards(contents=(pieces_NPS * number_P1).sum(dim=1).long(), rights=rights_N4, files=file_N8)


def squeeze(worth_N: torch.Tensor) -> Array:
    """Pawns `[N]` to values `[N, 1]` of -1 to 1; unlike tanh it still tells much from more where all is won."""
    return (worth_N / (worth_N.abs() + VALUE_SCALE_PAWNS)).numpy()[:, None].astype(np.float32)


def games(book: Boards, num_games: int, num_plies: int) -> tuple[list[str], Array]:
    """FENs that games from the book's positions come to, and their targets."""
    rng = torch.Generator().manual_seed(SEED)
    boards = book.take(torch.randint(len(book), (num_games,), generator=rng))
    texts: list[str] = []
    targets = []
    for _ in range(num_plies):
        worth_NM = torch.cat([after_moves(part, CAPTURE_PLIES - 1) for part in boards.chunks()])
        goes_on_N = torch.isfinite(worth_NM.amax(dim=1))
        boards, worth_NM = boards.take(goes_on_N), worth_NM[goes_on_N]
        best_N1 = worth_NM.amax(dim=1, keepdim=True)
        chance_NM = torch.softmax((worth_NM - best_N1) / SURENESS_PAWNS, dim=1)
        white_N = torch.rand(len(boards), generator=rng) < 0.5
        texts += fens(boards, white_N)
        weight_NT, move_NT = chance_NM.topk(NUM_TARGETS, dim=1)
        label_NT = torch.where(white_N[:, None], _TO_LABEL[0][move_NT], _TO_LABEL[1][move_NT])
        weight_NT /= weight_NT.sum(dim=1, keepdim=True)
        target = {
            "moves": torch.stack((label_NT.float(), weight_NT), dim=2).numpy(),
            "value": squeeze(best_N1[:, 0]),
            "of_book": np.zeros(len(boards), dtype=bool),
        }
        targets.append(several(target))
        legal_NM = torch.isfinite(worth_NM).float()
        mixed_NM = _RANDOM_RATIO * legal_NM / legal_NM.sum(dim=1, keepdim=True) + (1 - _RANDOM_RATIO) * chance_NM
        boards = boards.play(torch.multinomial(mixed_NM, 1, generator=rng)[:, 0])
    return texts, np.concatenate(targets)


def fens(boards: Boards, white_N: torch.Tensor) -> list[str]:
    """FENs, without counters, of positions with white to move, or with black where `white_N` says so."""
    texts = []
    for content, rights, file, white in zip(
        boards.contents.tolist(), boards.rights.tolist(), boards.files.tolist(), white_N.tolist(), strict=True
    ):
        own, their = (PIECES, PIECES.lower()) if white else (PIECES.lower(), PIECES)
        letters = [("." + own + their)[kind] for kind in content]
        ranks = [_counted("".join(letters[at : at + 8])) for at in range(0, NUM_SQUARES, 8)]
        may = [own[5], own[4], their[5], their[4]]
        held = "".join(sorted(letter for letter, right in zip(may, rights, strict=True) if right)) or "-"
        passing = f"{'abcdefgh'[file.index(1)]}{'6' if white else '3'}" if 1 in file else "-"
        texts.append(f"{'/'.join(reversed(ranks) if white else ranks)} {'w' if white else 'b'} {held} {passing}")
    return texts


def _counted(rank: str) -> str:
    """With a number in place of empty squares."""
    return re.sub(r"\.+", lambda empty: str(len(empty[0])), rank)


def _move(board: "chess.Board", code: int) -> "chess.Move":
    """A book's move: three bits each for file and rank of its end and start, then what a pawn becomes."""
    import chess

    end, start, becomes = code & 63, code >> 6 & 63, code >> 12 & 7
    if board.kings & chess.BB_SQUARES[start] and board.occupied_co[board.turn] & chess.BB_SQUARES[end]:
        end = start + 2 if end > start else start - 2  # castling is written as the king taking the rook
    return chess.Move(start, end, becomes + 1 if becomes else None)


def _padded(moves: list[list[tuple[int, int]]]) -> Array:
    """Labels and weights `[N, NUM_TARGETS, 2]`, the weights of a position adding up to 1."""
    moves_NT2 = np.zeros((len(moves), NUM_TARGETS, 2), dtype=np.float32)
    for target, known in zip(moves_NT2, moves, strict=True):
        target[: len(known)] = known[:NUM_TARGETS]
    moves_NT2[..., 1] /= moves_NT2[..., 1].sum(axis=1, keepdims=True)
    return moves_NT2


def _positions(content: bytes, tokenizer: Tokenizer) -> tuple[Array, Array]:
    """Token ids `[N, L]` and targets `[N]`, every position once, in a random order."""
    texts, moves = walk(content)
    ids_NL = encode(tokenizer, texts)
    boards = boards_of(ids_NL)
    worth_N = torch.cat([after_captures(part, CAPTURE_PLIES) for part in boards.chunks()])
    book = several({"moves": moves, "value": squeeze(worth_N), "of_book": np.ones(len(texts), dtype=bool)})
    more_texts, more = games(boards, NUM_GAMES, NUM_PLIES)
    ids_NL = np.concatenate((ids_NL, encode(tokenizer, more_texts)))
    _, first = np.unique(ids_NL, axis=0, return_index=True)
    order = np.random.default_rng(SEED).permutation(np.sort(first))
    return ids_NL[order], np.concatenate((book, more))[order]


def split(ids_NL: Array, targets: Array, identity: str, tokenizer: Tokenizer) -> Dataset:
    """Every position in the split that the digest of what the side to move sees says."""
    boards = boards_of(ids_NL)
    seen_NF = torch.cat((boards.contents, boards.rights, boards.files), dim=1).to(torch.uint8).numpy()
    place_N = np.array([int.from_bytes(hashlib.sha256(row.tobytes()).digest()[:4], "big") / 2**32 for row in seen_NF])
    samples = Split(inputs={"ids": ids_NL}, targets=targets)
    test_N, validation_N = place_N < HELD_OUT_RATIO, place_N >= 1 - HELD_OUT_RATIO
    return Dataset(
        name="GNU Chess opening book",
        sha256=identity,
        train=samples.take(np.flatnonzero(~test_N & ~validation_N)),
        validation=samples.take(np.flatnonzero(validation_N)),
        test=samples.take(np.flatnonzero(test_N)),
        files={TOKENIZER_FILE: tokenizer.to_str().encode()},
    )
