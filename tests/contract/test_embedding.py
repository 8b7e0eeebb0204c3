"""What is watched of an embedding, held against numpy and scipy, and where there is little or nothing to watch."""

from typing import Any

import numpy as np
import pytest
import scipy.linalg
from pydantic import ValidationError
from scipy.spatial.distance import mahalanobis

from contract import Contract, Repository
from contract.embedding import (
    KINDS,
    PREFIX,
    Embedding,
    Projection,
    check_embedding,
    fit_embedding,
    is_embedding_feature,
)
from contract.observation import Observer, embedding_features
from contract.schema import TensorSpec

NAMES = [
    *(f"component{k}" for k in range(1, 9)),
    *("residual", "mahalanobis", "norm"),
    *(f"product{jk}" for jk in (12, 13, 14, 23, 24, 34)),
    *(f"cosine{w}" for w in range(1, 9)),
]


def drawn(num: int, num_dimensions: int, seed: int = 0) -> Any:
    """Vectors `[num, D]` around a mean far from 0, their deviations falling, along turned axes."""
    random = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(99).normal(size=(num_dimensions, num_dimensions)))[0]
    deviation = 3.0 * 0.8 ** np.arange(num_dimensions) + 0.05
    return ((random.normal(size=(num, num_dimensions)) * deviation) @ turn + 5).astype(np.float32)


def shown(embedding: Embedding, vectors: Any) -> dict[str, Any]:
    return {name.removeprefix(PREFIX): each for name, each in Projection(embedding).values(vectors).items()}


def test_the_features_are_what_numpy_and_scipy_make_of_it() -> None:
    reference, vectors = drawn(2_000, 40).astype(np.float64), drawn(50, 40, seed=1)
    embedding = fit_embedding("e", reference.astype(np.float32))
    values = shown(embedding, vectors)
    mean, covariance = reference.mean(axis=0), np.cov(reference, rowvar=False, bias=True)
    variance, axes = scipy.linalg.eigh(covariance, subset_by_index=[32, 39])
    variance, axes = (
        variance[::-1],
        axes[:, ::-1] * np.sign(np.sum(axes[:, ::-1] * np.array(embedding.components).T, axis=0)),
    )
    centred = vectors - mean
    z = centred @ axes / np.sqrt(variance)
    close: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3}

    assert list(values) == NAMES
    for k in range(8):
        np.testing.assert_allclose(values[f"component{k + 1}"], z[:, k], **close)
    np.testing.assert_allclose(values["product24"], z[:, 1] * z[:, 3], **close)
    np.testing.assert_allclose(values["residual"], np.linalg.norm(centred - centred @ axes @ axes.T, axis=1), **close)
    kept = axes @ np.diag(1 / variance) @ axes.T
    np.testing.assert_allclose(values["mahalanobis"], [mahalanobis(x, mean, kept) for x in vectors], **close)
    np.testing.assert_allclose(values["norm"], scipy.linalg.norm(vectors.astype(np.float64), axis=1), **close)
    waves = np.cos(z @ np.array(embedding.waves).T + np.array(embedding.phases))
    np.testing.assert_allclose(values["cosine3"], waves[:, 2], rtol=0, atol=5e-3)
    assert waves.std(axis=0).min() > 0.3  # a wave that hardly moves would see nothing


def test_with_as_many_components_as_dimensions_the_distance_is_mahalanobis_own() -> None:
    reference, vectors = drawn(500, 5), drawn(20, 5, seed=1)
    values = shown(fit_embedding("e", reference), vectors)
    inverse = np.linalg.inv(np.cov(reference, rowvar=False, bias=True))
    expected = [mahalanobis(x, reference.mean(axis=0), inverse) for x in vectors]
    np.testing.assert_allclose(values["mahalanobis"], expected, rtol=1e-3)
    assert "residual" not in values


def test_a_reference_of_many_chunks_is_that_of_one() -> None:
    vectors = drawn(600, 2_048)  # 512 at a time
    embedding = fit_embedding("e", vectors)
    along = (vectors - vectors.mean(axis=0, dtype=np.float64)) @ np.array(embedding.components).T
    np.testing.assert_allclose(along.std(axis=0), embedding.scales, rtol=1e-4)
    singular = scipy.linalg.svdvals(vectors.T[:, :600] - vectors.mean(axis=0, dtype=np.float64)[:, None])
    np.testing.assert_allclose(embedding.scales, singular[:8] / np.sqrt(600), rtol=1e-3)


@pytest.mark.parametrize(("num", "num_dimensions", "num_components"), [(50, 2, 2), (4, 30, 3), (20, 4_096, 8)])
def test_few_dimensions_or_samples_give_fewer_components(num: int, num_dimensions: int, num_components: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(num, num_dimensions)).astype(np.float32)
    embedding = fit_embedding("e", vectors)
    values = shown(embedding, vectors)
    assert len(embedding.components) == num_components
    assert ("residual" in values) == (num_dimensions > num_components)
    assert all(np.isfinite(each).all() for each in values.values())


def test_a_dimension_that_was_always_the_same_is_no_component_and_is_seen_when_it_moves() -> None:
    vectors = np.pad(drawn(1_000, 4), ((0, 0), (0, 8)), constant_values=2)
    embedding = fit_embedding("e", vectors)
    moved = vectors.copy()
    moved[:, 9] += 1
    assert len(embedding.components) == 4
    still, seen = (shown(embedding, each)["residual"] for each in (vectors, moved))
    assert np.unique(still).size == 1  # rounding, which no two runtimes share, isn't counted
    np.testing.assert_allclose(seen, 1, rtol=1e-3)


def test_vectors_that_hold_no_numbers_are_missing_and_no_others_are() -> None:
    vectors = drawn(300, 12)
    embedding = fit_embedding("e", np.concatenate([vectors, np.full((1, 12), np.nan, np.float32)]))
    assert embedding == fit_embedding("e", vectors)
    damaged = vectors[:4].copy()
    damaged[1, 3], damaged[2, 0], damaged[3] = np.nan, np.inf, 3e38
    for feature in embedding_features(embedding, vectors):
        index = feature.assign(Projection(embedding).values(damaged)[feature.name])
        missing = len(feature.bins) - 1
        assert (index == missing).tolist() == [False, True, True, False]


@pytest.mark.parametrize("vectors", [np.full((9, 3), 7.1), np.full((9, 3), np.nan), np.ones((1, 3)), np.zeros((0, 3))])
def test_vectors_that_are_all_alike_are_refused(vectors: Any) -> None:
    with pytest.raises(ValueError, match=r"embedding 'e': expected finite vectors that differ, got [019] all alike"):
        fit_embedding("e", vectors.astype(np.float32))


def test_it_is_the_same_each_time_and_once_written() -> None:
    embedding = fit_embedding("e", drawn(300, 128))
    assert (
        embedding == fit_embedding("e", drawn(300, 128)) == Embedding.model_validate_json(embedding.model_dump_json())
    )
    assert len(embedding.model_dump_json()) < 16 * 1024


def test_its_features_are_told_from_those_of_an_input_of_that_name() -> None:
    assert {name.rstrip("0123456789") for name in NAMES} == set(KINDS)
    assert all(is_embedding_feature(f"{PREFIX}{name}") for name in NAMES)
    assert not any(map(is_embedding_feature, ("embedding.mean", "embedding.std", "norm", "embeddings.norm")))


@pytest.mark.parametrize(
    ("datatype", "shape", "said"),
    [
        ("FP16", (8,), r"expected as FP32 \[D\], D of 2 or more and fixed, got FP16 \[8\]"),
        ("FP32", (-1,), r"got FP32 \[-1\]"),
        ("FP32", (1,), r"got FP32 \[1\]"),
        ("FP32", (), r"got FP32 \[\]"),
        ("FP32", (4, 8), r"got FP32 \[4, 8\]"),
    ],
)
def test_an_output_that_is_no_embedding_is_refused(datatype: Any, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_embedding("y", [TensorSpec(name="y", datatype=datatype, shape=shape)])


def test_a_contract_holds_the_embedding_against_its_outputs(tiny_repository: Repository) -> None:
    document = tiny_repository.contract("tiny", 1).model_dump()

    def with_embedding(tensor: str, num_dimensions: int) -> Contract:
        embedding = fit_embedding(tensor, drawn(100, num_dimensions))
        profile = document["profile"] | {"embedding": embedding.model_dump()}
        return Contract.model_validate(document | {"profile": profile})

    assert with_embedding("logits", 3).profile.embedding is not None
    with pytest.raises(ValidationError, match="embedding 'hidden' is no output of the model: expected one of 'logits'"):
        with_embedding("hidden", 3)
    with pytest.raises(ValidationError, match="embedding 'logits' has 3 dimensions, its profile 4"):
        with_embedding("logits", 4)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("components", ((1.0, 0.0),), "expected components of 3 numbers each"),
        ("waves", ((1.0,),), "expected waves of 2 numbers each"),
        ("phases", (0.0,), "a phase for each wave"),
        ("scales", (1.0,), "a scale for each component"),
        ("scales", (1.0, 0.0), "greater than 0"),
    ],
)
def test_numbers_that_do_not_fit_each_other_are_refused(field: str, value: Any, said: str) -> None:
    document = fit_embedding("e", np.eye(3, dtype=np.float32)).model_dump()
    assert len(document["components"]) == 2
    with pytest.raises(ValidationError, match=said):
        Embedding.model_validate(document | {field: value})


def test_an_observer_counts_it_beside_the_other_features(tiny_repository: Repository) -> None:
    contract = tiny_repository.contract("tiny", 1)
    vectors = drawn(400, 3)
    embedding = fit_embedding("logits", vectors)
    features = contract.profile.features + embedding_features(embedding, vectors)
    profile = contract.profile.model_copy(update={"features": features, "embedding": embedding})
    observer = Observer(contract.model_copy(update={"profile": profile}))
    images, outputs = np.zeros((400, 8, 8, 1), np.uint8), {"logits": vectors}
    assigned = observer.assign({"image": images}, {}, observer.interpret(outputs), observer.embedded(outputs))
    for feature in embedding_features(embedding, vectors):
        counts = np.bincount(assigned[feature.name], minlength=len(feature.bins))
        np.testing.assert_allclose(counts / 400, [cell.ratio for cell in feature.bins])
    assert {"confidence", "embedding.norm", "embedding.product12"} < set(assigned)
    assert Observer(contract).embedded(outputs) is None
