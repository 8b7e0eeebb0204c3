"""The reference profile: what inputs and outputs look like when nothing has drifted.

Input features are taken from the training split: they are a matter of the data alone, and the more samples, the
smaller the drift that can be told from chance. Output features are taken from the validation split: on data it was
trained on a model is surer of itself than it will ever be in service, and every confidence would look like drift.
The test split is left out of both, so that replaying it remains a fair trial of false alarms. What is watched of an
embedding is an output too; along what, is found on training samples: whatever they are, the bins are filled by others.
Each feature carries its own number of samples, as the two-sample tests need it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from contract.embedding import Embedding, fit_embedding
from contract.observation import build_profile, embedding_features, input_values, watched
from contract.profile import CONFIDENCE, BinAccuracy, Feature, Profile, bin_accuracy
from contract.schema import ClassificationPostprocess, Postprocess, Preprocess
from contract.tensor import Tensors
from training.data import Dataset, Split
from training.error import GateFailed
from training.forward import predict
from training.recipe import Recipe

Array = NDArray[Any]

NUM_FITTED = 4096  # embeddings that components are found on: many times their dimensions, mostly


def reference_profile(
    preprocess: Preprocess,
    postprocess: Postprocess,
    dataset: Dataset,
    validation_outputs: Tensors,
    unwatched: Sequence[str] = (),
    embedding: Embedding | None = None,
) -> Profile:
    """Profile of the inputs from M training samples, of the outputs from the validation samples' `[V, ...]`.

    Without the inputs and features that `unwatched` names, and with those of an embedding among the outputs.
    """
    shown, held_out = (
        {name: array for name, array in split.inputs.items() if name not in unwatched}
        for split in (dataset.train, dataset.validation)
    )
    inputs = build_profile(preprocess, postprocess, shown, dataset.train.observed, None)
    meaning = watched(postprocess, validation_outputs)
    observed = dataset.validation.observed
    whole = build_profile(preprocess, postprocess, held_out, observed, meaning)
    from_inputs = set(input_values(preprocess, held_out, observed))
    outputs = [feature for feature in whole.features if feature.name not in from_inputs]
    confidence: tuple[BinAccuracy, ...] = ()
    targets = dataset.validation.targets
    if isinstance(postprocess, ClassificationPostprocess) and meaning is not None and targets.dtype.names is None:
        confidence = _confidence(outputs, meaning, targets)
    if embedding is not None:
        outputs += embedding_features(embedding, validation_outputs[embedding.tensor])
    features = tuple(feature for feature in (*inputs.features, *outputs) if feature.name not in unwatched)
    return Profile(features=features, confidence=confidence, embedding=embedding)


def watched_embedding(recipe: Recipe, network: nn.Module, train: Split) -> Embedding | None:
    """Along what a recipe's embedding is watched, from samples spread over the training split; None without one.

    Raises GateFailed when the network embeds all of them alike.
    """
    if recipe.embedding is None:
        return None
    chosen = np.linspace(0, len(train) - 1, min(len(train), NUM_FITTED)).astype(np.intp)
    outputs = predict(network, train.take(chosen).inputs, recipe.inputs, recipe.outputs)
    try:
        return fit_embedding(recipe.embedding, outputs[recipe.embedding])
    except ValueError as exc:
        raise GateFailed(f"{exc}; nothing was published") from exc


def _confidence(outputs: Sequence[Feature], meaning: Array, targets: Array) -> tuple[BinAccuracy, ...]:
    """How often a classifier `[V, K]` is right by how sure it is."""
    feature = next(feature for feature in outputs if feature.name == CONFIDENCE)
    return bin_accuracy(feature, meaning.max(axis=1), meaning.argmax(axis=1) == targets)
