from typing import Any

import numpy as np
import pytest

from contract.observation import output_values
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
from training.reference import reference_profile

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
