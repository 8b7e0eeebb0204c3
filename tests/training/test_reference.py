from typing import Any

import numpy as np
import pytest

from contract import Repository
from contract.embedding import PREFIX, fit_embedding
from contract.observation import embedding_features, output_values
from contract.postprocess import interpret
from contract.schema import (
    BoxesPostprocess,
    ClassificationPostprocess,
    GenerationPostprocess,
    MaskPostprocess,
    Postprocess,
    TensorPreprocess,
    TokenLabelsPostprocess,
)
from training.data import Dataset, Split
from training.error import GateFailed
from training.material import Material
from training.recipes.recurrent import RECIPES
from training.reference import reference_profile, watched_embedding

RNG = np.random.default_rng(0)
NUM_VALIDATION = 50


def dataset(targets: Any) -> Dataset:
    train, held_out = Split(inputs={"x": RNG.normal(size=(80, 3))}, targets=np.zeros(80)), RNG.normal(size=(50, 3))
    validation = Split(inputs={"x": held_out}, targets=targets)
    return Dataset(name="d", sha256="0" * 64, train=train, validation=validation, test=validation)


def test_a_classifier_keeps_how_often_it_is_right_by_how_sure_it_is() -> None:
    post = ClassificationPostprocess(tensor="y", labels=("a", "b"))
    right = RNG.integers(0, 2, NUM_VALIDATION)
    profile = reference_profile(TensorPreprocess(), post, dataset(right), {"y": 3.0 * np.eye(2)[right]})
    assert sum(cell.num_right for cell in profile.confidence) == NUM_VALIDATION


@pytest.mark.parametrize(
    ("post", "shape"),
    [
        (TokenLabelsPostprocess(tensor="y", labels=("O", "PER"), outside="O"), (5, 2)),
        (BoxesPostprocess(boxes_tensor="b", scores_tensor="y", labels=("cat", "dog")), (5, 2)),
        (MaskPostprocess(tensor="y", labels=("ground", "road")), (2, 70, 8)),
        (GenerationPostprocess(tensor="y", tokenizer="t.json", end_id=1, pad_id=0), (9,)),
    ],
)
def test_what_gives_no_one_label_is_watched_by_its_own_features_and_never_as_right(
    post: Postprocess, shape: tuple[int, ...]
) -> None:
    whole = isinstance(post, GenerationPostprocess)
    outputs = RNG.integers(0, 9, (NUM_VALIDATION, *shape)) if whole else RNG.uniform(size=(NUM_VALIDATION, *shape))
    targets = np.zeros((NUM_VALIDATION, 7))  # of another form than labels
    profile = reference_profile(TensorPreprocess(), post, dataset(targets), {"y": outputs})
    assert profile.confidence == ()
    samples = {feature.name: feature.num_samples for feature in profile.features}
    expected = output_values(post, interpret(post, {"y": outputs}))
    assert samples == {"x.mean": 80, "x.std": 80, **dict.fromkeys(expected, NUM_VALIDATION)}


def embedded(num: int) -> dict[str, Any]:
    return {"y": 3.0 * np.eye(2)[np.arange(num) % 2], "e": RNG.normal(size=(num, 20)).astype(np.float32)}


def test_what_is_watched_of_an_embedding_has_its_bins_from_validation_samples() -> None:
    post, labels = ClassificationPostprocess(tensor="y", labels=("a", "b")), np.arange(NUM_VALIDATION) % 2
    embedding, outputs = fit_embedding("e", embedded(80)["e"]), embedded(NUM_VALIDATION)
    unwatched = (f"{PREFIX}norm",)
    profile = reference_profile(TensorPreprocess(), post, dataset(labels), outputs, unwatched, embedding)
    shown = [feature for feature in profile.features if feature.name.startswith(PREFIX)]
    assert profile.embedding == embedding
    assert shown == [one for one in embedding_features(embedding, outputs["e"]) if one.name not in unwatched]
    assert {feature.num_samples for feature in shown} == {NUM_VALIDATION}


def test_a_lowered_version_is_watched_along_what_its_parent_is(tiny_repository: Repository) -> None:
    parent = tiny_repository.contract("tiny", 1)
    embedding = fit_embedding("logits", RNG.normal(size=(60, 3)).astype(np.float32))
    parent = parent.model_copy(update={"profile": parent.profile.model_copy(update={"embedding": embedding})})
    images = RNG.integers(0, 255, (NUM_VALIDATION, 8, 8, 1)).astype(np.uint8)
    part = Split(inputs={"image": images}, targets=np.zeros(NUM_VALIDATION, np.int64))
    data = Dataset(name="d", sha256="0" * 64, train=part, validation=part, test=part)
    material = Material(name="d", split="test", calibration=part.inputs, judged=part.inputs, targets=None, dataset=data)
    logits = RNG.normal(size=(NUM_VALIDATION, 3)).astype(np.float32)
    profile = material.profile(parent, {"logits": logits})
    assert profile.embedding == embedding
    assert f"{PREFIX}product12" in {feature.name for feature in profile.features}


def test_a_network_that_embeds_all_samples_alike_is_not_published() -> None:
    recipe = next(recipe for recipe in RECIPES if recipe.embedding)
    ids = np.full((5, *recipe.inputs[0].shape), 7, np.int32)
    train = Split(inputs={"ids": ids}, targets=np.zeros(5))
    with pytest.raises(GateFailed, match="expected finite vectors that differ, got 5 all alike; nothing was published"):
        watched_embedding(recipe, recipe.network(), train)
    assert watched_embedding(RECIPES[0], RECIPES[0].network(), train) is None
