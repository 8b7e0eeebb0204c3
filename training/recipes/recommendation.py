"""What to see next: films for a person, by who they are and the ten that they rated last.

Networks: two towers, Covington, Adams & Sargin 2016 (RecSys), and a ranking head over the best 100. As a search, let
the first tower read a query in place of a person: the films' vectors, the product and the ranking stay as they are.

Judged by each person's last five films: how many of them are among the ten that a method names (recall@10), and how far
up (NDCG@10, Järvelin & Kekäläinen 2002). What a person had rated before is left out, of every method's films alike; the
graph itself knows only of the last ten, so who asks it leaves out the rest, and `recall_at_10_as_served` is that of who
doesn't. Recall comes to 0.208 where that of the last ten films' neighbours comes to 0.160; the ranking adds nothing to
it here, for it knows nothing of a film that retrieval doesn't.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from numpy.typing import NDArray
from torch import Tensor

from contract.schema import AxisRange, ClassificationPostprocess, Slo, TablePreprocess, TensorSpec
from contract.tensor import Tensors
from training.config import TrainConfig
from training.data import Dataset
from training.dataset.film import (
    COLUMNS,
    FILMS,
    GENDERS,
    NUM_FILMS,
    NUM_HELD_OUT,
    NUM_RECENT,
    OCCUPATIONS,
    load,
    seen_films,
)
from training.evaluation import Measure, averaged
from training.gate import Gate
from training.network.two_tower import TwoTowers
from training.recipe import Recipe

NUM_NAMED = 10
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class NextFilm:
    """Cross entropy of the next film, by retrieval and after ranking; the score is that it is among the ten named."""

    score_name: str = "recall@10 of the next film"

    def check(self, outputs: Sequence[TensorSpec], targets: NDArray[Any], *, whole: bool) -> None:
        """Films are indices; that some were never rated by those who are learned from is in the data's nature."""
        film_M = targets["film"]
        if film_M.min() < 0 or film_M.max() >= outputs[0].shape[0]:
            raise ValueError(
                f"expected films from 0 to {outputs[0].shape[0] - 1}, got {film_M.min()} to {film_M.max()}"
            )

    def loss(self, outputs: Sequence[Tensor], targets: dict[str, Tensor]) -> Tensor:
        """The sum of both, each a mean in nats."""
        ranked_NF, found_NF = outputs
        return F.cross_entropy(ranked_NF, targets["film"]) + F.cross_entropy(found_NF, targets["film"])

    def score(self, outputs: Sequence[Tensor], targets: dict[str, Tensor]) -> Tensor:
        """Share of samples whose next film has one of the ten highest scores."""
        named_NK = outputs[0].topk(NUM_NAMED, dim=1).indices
        return (named_NK == targets["film"][:, None]).any(dim=1).float().mean()


def hits(score_NF: NDArray[Any], targets: NDArray[Any]) -> tuple[Array, Array]:
    """Recall@10 and NDCG@10 of every person `[N]`, with a score for each film, what they rated before left out."""
    return hits_of_all(np.where(seen_films(targets), -np.inf, score_NF), targets)


def hits_of_all(score_NF: NDArray[Any], targets: NDArray[Any]) -> tuple[Array, Array]:
    """The same of films that may have been rated before."""
    named_NK = np.argsort(-score_NF, axis=1, kind="stable")[:, :NUM_NAMED]
    hit_NK = (named_NK[:, :, None] == targets["held_out"][:, None, :]).any(axis=2)
    gain_K = 1 / np.log2(np.arange(NUM_NAMED) + 2)
    return hit_NK.sum(axis=1) / NUM_HELD_OUT, hit_NK @ gain_K / gain_K[:NUM_HELD_OUT].sum()


def metrics(outputs: Tensors, targets: NDArray[Any]) -> list[Measure]:
    """Recall@10 and NDCG@10, the recall of retrieval alone, and that of all films; each a mean over people."""
    recall_N, ndcg_N = hits(outputs["logits"], targets)
    return [
        averaged("recall_at_10", recall_N, larger_is_better=True),
        averaged("ndcg_at_10", ndcg_N, larger_is_better=True),
        averaged("recall_at_10_of_retrieval", hits(outputs["retrieval"], targets)[0], larger_is_better=True),
        averaged("recall_at_10_as_served", hits_of_all(outputs["logits"], targets)[0], larger_is_better=True),
    ]


def popularity(dataset: Dataset) -> float:
    """Recall@10 of the films that most people rated."""
    targets = dataset.test.targets
    count_F = seen_films(targets).sum(axis=0)
    return float(hits(np.broadcast_to(count_F, (len(targets), NUM_FILMS)), targets)[0].mean())


def item_neighbours(dataset: Dataset, *, recent: bool) -> float:
    """Recall@10 of the films whose raters are those of the films a person rated: of the recent ones, or of all.

    Cosine similarity, Sarwar et al. 2001 (WWW); of all neighbours, which does better here than of fewer.
    """
    targets = dataset.test.targets
    rated_NF = seen_films(targets).astype(np.float64)
    norm_F = np.maximum(np.sqrt(rated_NF.sum(axis=0)), 1.0)
    alike_FF = rated_NF.T @ rated_NF / norm_F / norm_F[:, None]
    np.fill_diagonal(alike_FF, 0)
    if recent:
        index_NR = dataset.test.inputs["row"][:, -NUM_RECENT:].astype(np.intp)
        rated_NF = (index_NR[:, :, None] == np.arange(NUM_FILMS)).any(axis=1).astype(np.float64)
    return float(hits(rated_NF @ alike_FF, targets)[0].mean())


FILM_RECOMMENDER = Recipe(
    name="film-recommender",
    model="film-recommender",
    task="recommendation",
    description=(
        "Names films that a person may rate next, out of 1,682 that are called by their numbers in MovieLens 100k. "
        "A row says age, gender, occupation, and the films rated last, the latest as film_1; all of it may be left "
        "out. Only those films are never named: leave out yourself what was rated earlier."
    ),
    data="MovieLens 100k",
    load=load,
    network=partial(
        TwoTowers,
        num_recent=NUM_RECENT,
        num_genders=len(GENDERS),
        num_occupations=len(OCCUPATIONS),
        num_films=NUM_FILMS,
        num_candidates=100,
        width=64,
        hidden=32,
        dropout=0.3,
        dropped=0.1,
    ),
    objective=NextFilm(),
    inputs=(TensorSpec(name="row", datatype="FP32", shape=(len(COLUMNS),), allow_nan=True),),
    outputs=tuple(TensorSpec(name=name, datatype="FP32", shape=(NUM_FILMS,)) for name in ("logits", "retrieval")),
    batch=AxisRange(min=1, opt=16, max=64),
    preprocess=TablePreprocess(tensor="row", columns=COLUMNS),
    postprocess=ClassificationPostprocess(tensor="logits", labels=FILMS, top_k=NUM_NAMED),
    metrics=metrics,
    slo=Slo(latency_threshold_ms=50, latency_objective=0.99, availability_objective=0.999),
    # Six passes: where the validation split's loss is lowest.
    config=TrainConfig(epochs=6, batch_size=256, optimizer="adamw", peak_learning_rate=5e-3, weight_decay=0.1),
    gates=(
        Gate(metric="recall_at_10", at_least=0.18),
        Gate(metric="ndcg_at_10", at_least=0.15),
        Gate(metric="recall_at_10_as_served", at_least=0.13),
    ),
    quick_config=TrainConfig(
        epochs=2, batch_size=256, optimizer="adamw", peak_learning_rate=4e-3, weight_decay=0.1, num_train=40_000
    ),
    # Above the 0.076 of the most popular films.
    quick_gates=(Gate(metric="recall_at_10", at_least=0.08),),
    baselines={
        "popularity": popularity,
        "item neighbours of all": partial(item_neighbours, recent=False),
        "item neighbours of the last ten": partial(item_neighbours, recent=True),
    },
)

RECIPES = (FILM_RECOMMENDER,)
