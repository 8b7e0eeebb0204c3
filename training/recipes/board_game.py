"""Chess: the move that a master would play, and who stands better; what a tree search needs of a network.

Network: Silver et al. 2017, arXiv 1712.01815, taught by a book of masters' games instead of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contract.schema import AxisRange, ClassificationPostprocess, Slo, TensorSpec, TextPreprocess
from contract.tensor import Tensors
from training.config import TrainConfig
from training.data import Dataset
from training.dataset.board import TOKENIZER_FILE, load
from training.evaluation import Measure, averaged, counted, resampled
from training.gate import Gate
from training.network.chess_rule import BY_BLACK, BY_WHITE, LABELS, MAX_LENGTH, PAD_ID, UNKNOWN_ID, Movement, View
from training.network.policy_value import PolicyValueNetwork
from training.objective import MultiTask, Part, Regression
from training.recipe import Recipe

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class MoveDistribution:
    """Cross entropy over logits `[N, K]` with several weighted labels a sample, `[N, T, 2]`; the score is the accuracy.

    The weights of a sample add up to 1; where one is 0 there is no label.
    """

    score_name: str = "accuracy"

    def check(self, outputs: Sequence[TensorSpec], targets: Array, *, whole: bool) -> None:
        """Labels are below K, and weights add up to 1."""
        labels, weights = targets[..., 0], targets[..., 1]
        if not (labels.min() >= 0 and labels.max() < outputs[0].shape[-1] and np.allclose(weights.sum(axis=1), 1)):
            raise ValueError(f"expected labels from 0 to {outputs[0].shape[-1] - 1} with weights that add up to 1")

    def loss(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Mean cross entropy in nats."""
        log_probability_NT = torch.log_softmax(outputs[0], dim=1).gather(1, targets[..., 0].long())
        return -(log_probability_NT * targets[..., 1]).sum(dim=1).mean()

    def score(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Share of samples whose highest logit is their weightiest label's."""
        return (outputs[0].argmax(dim=1) == targets[:, 0, 0].long()).float().mean()


def network() -> PolicyValueNetwork:
    """213,729 parameters."""
    return PolicyValueNetwork(width=48, num_blocks=4, value_width=64)


def metrics(outputs: Tensors, targets: Array) -> Sequence[Measure]:
    """Moves against the masters', in the book's positions; values against the search's, in all."""
    of_book_N = targets["of_book"]
    hit_NK = _ranked(outputs["policy"][of_book_N], targets["moves"][of_book_N])
    value_N2 = np.concatenate((outputs["value"], targets["value"]), axis=1).astype(np.float64)
    return (
        counted("top_1_accuracy", hit_NK[:, 0]),
        counted("top_5_accuracy", np.asarray(hit_NK.any(axis=1))),
        resampled("value_correlation", value_N2, _correlation, larger_is_better=True),
        averaged("value_mean_absolute_error", np.abs(value_N2[:, 0] - value_N2[:, 1]), larger_is_better=False),
    )


def most_frequent_move(dataset: Dataset) -> float:
    """How often a position's move is the one that is played most in all of the training split."""
    score_K = _popularity(dataset)
    return _accuracy(np.broadcast_to(score_K, (len(dataset.test), len(LABELS))), dataset)


def most_frequent_possible_move(dataset: Dataset) -> float:
    """The same of the moves that the position's pieces can make."""
    with torch.inference_mode():
        view, movement = View(), Movement()
        pieces, rights, file, white = view(torch.from_numpy(dataset.test.inputs["ids"]))
        possible_NM = torch.nn.functional.pad(movement(pieces, rights, file), (0, 1))
        possible_NK = torch.where(white, possible_NM[:, BY_WHITE], possible_NM[:, BY_BLACK]).numpy()
    return _accuracy(np.where(possible_NK, _popularity(dataset), -1), dataset)


def _ranked(score_NK: Array, moves_NT2: Array, num: int = 5) -> NDArray[np.bool_]:
    """Whether each of the `num` best moves `[N, num]` is one of those that the book has most often."""
    best_N5 = np.argsort(-score_NK, axis=1, kind="stable")[:, :num]
    weight_NT = moves_NT2[..., 1]
    most_NT = weight_NT >= weight_NT.max(axis=1, keepdims=True)
    hit_N5T = (best_N5[:, :, None] == moves_NT2[:, None, :, 0]) & most_NT[:, None]
    return np.asarray(hit_N5T.any(axis=2))


def _accuracy(score_NK: Array, dataset: Dataset) -> float:
    of_book_N = dataset.test.targets["of_book"]
    return float(_ranked(score_NK[of_book_N], dataset.test.targets["moves"][of_book_N], 1).mean())


def _popularity(dataset: Dataset) -> Array:
    """How often each label is played `[K]`."""
    moves_NT2 = dataset.train.targets["moves"][dataset.train.targets["of_book"]]
    return np.asarray(np.bincount(moves_NT2[..., 0].astype(int).ravel(), moves_NT2[..., 1].ravel(), len(LABELS)))


def _correlation(samples_N2: Array) -> float:
    """Pearson's; 0 where either doesn't vary."""
    return float(np.corrcoef(samples_N2.T)[0, 1]) if samples_N2.std(axis=0).all() else 0.0


CHESS = Recipe(
    name="chess-policy-value",
    model="chess",
    task="board-game",
    description="Takes a chess position as FEN; answers the moves a master would play and the value for who moves.",
    data="GNU Chess opening book",
    load=load,
    network=network,
    # A value's squared error is some hundredths where a move's cross entropy is two; the search needs both.
    objective=MultiTask(
        parts=(
            Part(objective=MoveDistribution(), target="moves", outputs=(0,)),
            Part(objective=Regression(), target="value", outputs=(1,), weight=40.0),
        )
    ),
    inputs=(TensorSpec(name="ids", datatype="INT32", shape=(MAX_LENGTH,)),),
    outputs=(
        TensorSpec(name="policy", datatype="FP32", shape=(len(LABELS),)),
        TensorSpec(name="value", datatype="FP32", shape=(1,)),
    ),
    # 16: the leaves that one search asks about at a time; 128: several searches together.
    batch=AxisRange(min=1, opt=16, max=128),
    preprocess=TextPreprocess(
        tokenizer=TOKENIZER_FILE, ids_tensor="ids", max_length=MAX_LENGTH, pad_id=PAD_ID, unknown_id=UNKNOWN_ID
    ),
    postprocess=ClassificationPostprocess(tensor="policy", labels=LABELS, top_k=5),
    metrics=metrics,
    slo=Slo(latency_threshold_ms=50, latency_objective=0.99, availability_objective=0.999),
    # Three passes: about four minutes on two cores. Attention's way of scoring moves wants Adam, and steps of bounded
    # length while the value's large weight pulls.
    config=TrainConfig(
        epochs=3, batch_size=128, optimizer="adamw", peak_learning_rate=3e-3, weight_decay=1e-2, clip_norm=5.0
    ),
    gates=(Gate(metric="top_1_accuracy", at_least=0.40), Gate(metric="value_correlation", at_least=0.9)),
    quick_config=TrainConfig(
        epochs=1, batch_size=64, optimizer="adamw", peak_learning_rate=3e-3, weight_decay=1e-2, num_train=16_384
    ),
    quick_gates=(Gate(metric="top_1_accuracy", at_least=0.2), Gate(metric="value_correlation", at_least=0.6)),
    baselines={
        "most frequent move": most_frequent_move,
        "most frequent possible move": most_frequent_possible_move,
    },
)

RECIPES = (CHESS,)
