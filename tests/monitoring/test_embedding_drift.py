"""A shift that only shows in how dimensions go together, or in a few samples far off, is found by the very rules."""

import re
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.drift.evaluator import Evaluator
from bench.drift.ruling import STEP_S, record, rules
from bench.drift.traffic import Model, counters
from contract.embedding import PREFIX, Projection, fit_embedding
from contract.observation import embedding_features
from monitoring.drift import WINDOWS
from monitoring.drift_alert import OUTPUTS

Floats = NDArray[np.float64]

NUM_DIMENSIONS, NUM_REFERENCE, NUM_CURRENT = 64, 5_000, 500
NUM_LOOKS = 8
ONE_LOOK_Z = 3.34  # of one look in twenty at thirty features without drift; looks every minute need ALARM_Z
DEVIATIONS = np.concatenate([[3.6, 2.8, 2.2, 1.8, 1.5, 1.3, 1.2, 1.1], np.linspace(1, 0.2, NUM_DIMENSIONS - 8)])
TURN = np.linalg.qr(np.random.default_rng(0).normal(size=(NUM_DIMENSIONS, NUM_DIMENSIONS)))[0]
UNUSUAL = TURN[-1]  # a direction in which the reference hardly varies


def drawn(random: np.random.Generator, num: int, correlation: float = 0.0, novel: float = 0.0) -> Floats:
    """Vectors `[num, D]`; a correlation of the two widest directions, or a share that points elsewhere.

    Either leaves every direction's or every vector's length as it was.
    """
    z = random.normal(size=(num, NUM_DIMENSIONS))
    z[:, 1] = correlation * z[:, 0] + np.sqrt(1 - correlation**2) * z[:, 1]
    vectors = (z * DEVIATIONS) @ TURN
    chosen = random.random(num) < novel
    vectors[chosen] = np.linalg.norm(vectors[chosen], axis=1, keepdims=True) * UNUSUAL
    return np.asarray(vectors)


@cache
def flagged(correlation: float, novel: float) -> dict[str, NDArray[np.bool_]]:
    """For each kind of feature whether one of it is beyond the limit at each look by the hour's rules."""
    random = np.random.default_rng(7)
    embedding = fit_embedding("e", drawn(random, NUM_REFERENCE).astype(np.float32))
    features = embedding_features(embedding, drawn(random, NUM_REFERENCE).astype(np.float32))
    looked, counts = [], []
    for look in range(NUM_LOOKS):
        vectors = drawn(random, NUM_CURRENT, correlation, novel).astype(np.float32)
        values = Projection(embedding).values(vectors)
        for feature in features:
            count = np.bincount(feature.assign(values[feature.name]), minlength=len(feature.bins))
            counts.append(np.stack([np.zeros_like(count), count], axis=1))
            looked.append(feature.model_copy(update={"name": f"{look} {feature.name}"}))
    model = Model(features=tuple(looked), num_samples=NUM_REFERENCE)
    evaluator = Evaluator(counters(model, counts), STEP_S)
    record(evaluator, rules(WINDOWS[:1]))
    z = evaluator.series[WINDOWS[0].record("z")]
    found: dict[str, NDArray[np.bool_]] = {}
    for labels, scores in zip(z.labels, z.values, strict=True):
        number, name = dict(labels)["feature"].split(" ")
        kind = name.removeprefix(PREFIX).rstrip("0123456789")
        found.setdefault(kind, np.zeros(NUM_LOOKS, bool))[int(number)] |= scores[-1] > ONE_LOOK_Z
    return found


def test_hardly_a_look_flags_anything_without_a_shift() -> None:
    assert np.any(list(flagged(0.0, 0.0).values()), axis=0).mean() <= 0.125


@pytest.mark.parametrize(("correlation", "novel", "finder"), [(0.5, 0.0, "product"), (0.0, 0.05, "residual")])
def test_a_shift_is_found_by_what_no_dimension_and_no_length_shows(
    correlation: float, novel: float, finder: str
) -> None:
    looks = flagged(correlation, novel)
    assert looks[finder].mean() > 0.8
    assert not looks["norm"].any()


def test_the_rules_take_them_for_what_a_model_answers_and_an_input_of_that_name_for_an_input() -> None:
    vectors = drawn(np.random.default_rng(0), 100).astype(np.float32)
    for feature in embedding_features(fit_embedding("e", vectors), vectors):
        assert re.fullmatch(OUTPUTS, feature.name)
    for name in ("embedding.mean", "embedding.std", "column.norm", "embeddings.norm"):
        assert not re.fullmatch(OUTPUTS, name)
