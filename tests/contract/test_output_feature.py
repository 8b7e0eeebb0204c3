"""What is counted of each kind of answer, held against numbers worked out by hand."""

from typing import Any

import numpy as np
import pytest

from contract import Contract, Repository
from contract.observation import OUTPUT_FEATURES, Observer, build_profile, output_values, watched
from contract.postprocess import interpret
from contract.schema import (
    BoxesPostprocess,
    ClassificationPostprocess,
    EmbeddingPostprocess,
    GenerationPostprocess,
    MaskPostprocess,
    Postprocess,
    RegressionPostprocess,
    TensorPostprocess,
    TokenLabelsPostprocess,
)

TAGS = TokenLabelsPostprocess(tensor="y", labels=("O", "PER"), outside="O")
BOXES = BoxesPostprocess(boxes_tensor="b", scores_tensor="y", labels=("cat", "dog"), min_score=0.5)
MASK = MaskPostprocess(tensor="y", labels=("ground", "road"))
TEXTS = GenerationPostprocess(tensor="y", tokenizer="t.json", end_id=1, pad_id=0)


def seen(spec: Postprocess, array: Any) -> dict[str, list[float]]:
    values = output_values(spec, watched(spec, {"y": np.array(array)}))
    return {name: np.asarray(each, np.float64).tolist() for name, each in values.items()}


def logits(probabilities: Any) -> Any:
    return np.log(np.array(probabilities)).astype(np.float32)


def test_of_token_labels() -> None:
    scores = logits([[[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]], [[0.9, 0.1], [0.7, 0.3], [0.8, 0.2]]])
    assert seen(TAGS, scores) == {"spans": [2, 0], "confidence": pytest.approx([(0.9 + 0.8 + 0.6) / 3, 0.8])}
    scores[0, 1, 0] = np.nan
    damaged = seen(TAGS, scores)
    assert damaged["spans"] == pytest.approx([np.nan, 0], nan_ok=True)
    assert damaged["confidence"] == pytest.approx([np.nan, 0.8], nan_ok=True)
    assert seen(TAGS, np.zeros((1, 0, 2))) == {"spans": [0], "confidence": [0]}


def test_of_boxes() -> None:
    scores = [[[0.9, 0.1], [0.1, 0.5], [0.4, 0.3]], [[0.1, 0.2], [0.1, 0.1], [0, 0]], [[0, 0], [0, np.nan], [0.9, 0]]]
    shown = seen(BOXES, scores)
    assert shown["boxes"] == pytest.approx([2, 0, np.nan], nan_ok=True)
    assert shown["confidence"] == pytest.approx([0.9, 0.2, np.nan], nan_ok=True)
    assert seen(BOXES, np.zeros((2, 0, 2))) == {"boxes": [0, 0], "confidence": [0, 0]}


def test_of_a_mask() -> None:
    road = np.array([[[0.9, 0.2], [0.6, 0.5]], [[0.1, 0.1], [0.1, 0.3]]])
    shown = seen(MASK, logits(np.stack([1 - road, road], axis=1)))
    assert shown["foreground"] == [0.5, 0]
    assert shown["confidence"] == pytest.approx([(0.9 + 0.8 + 0.6 + 0.5) / 4, (0.9 + 0.9 + 0.9 + 0.7) / 4])
    damaged = seen(MASK, np.array([[[[np.nan, 0], [0, 0]], [[1, 1], [1, 1]]]], np.float32))
    assert np.isnan([damaged["foreground"][0], damaged["confidence"][0]]).all()


def test_of_a_large_mask_a_grid_is_looked_at_and_the_reference_looks_at_the_same() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 2, 130, 70)).astype(np.float32)
    whole = interpret(MASK, {"y": scores})
    assert whole is not None
    live = seen(MASK, scores)
    assert live == {name: pytest.approx(each.tolist()) for name, each in output_values(MASK, whole).items()}
    assert live["foreground"] == (scores.argmax(axis=1)[:, ::3, ::2] != 0).mean(axis=(1, 2)).tolist()


def test_of_a_generated_text() -> None:
    ids = [[5, 6, 1, 7], [5, 6, 7, 8], [1, 1, 1, 1], [0, 5, 1, 0], [5, 0, 0, 0]]
    assert seen(TEXTS, ids) == {"generated_length": [2, 4, 0, 1, 1]}


def test_every_output_feature_has_its_name_in_the_list() -> None:
    classes = ClassificationPostprocess(tensor="y", labels=("a", "b"))
    each: list[tuple[Postprocess, Any]] = [
        (classes, np.zeros((1, 2))),
        (RegressionPostprocess(tensor="y"), np.zeros((1, 1))),
        (EmbeddingPostprocess(tensor="y"), np.ones((1, 2))),
        (TAGS, np.zeros((1, 1, 2))),
        (BOXES, np.zeros((1, 1, 2))),
        (MASK, np.zeros((1, 2, 2, 2))),
        (TEXTS, np.zeros((1, 2), np.int64)),
        (TensorPostprocess(), np.zeros((1, 2))),
    ]
    assert {name for spec, array in each for name in seen(spec, array)} == set(OUTPUT_FEATURES)


def test_live_samples_fall_into_the_bins_of_their_reference(tiny_repository: Repository) -> None:
    contract = tiny_repository.contract("tiny", 1)
    images = np.zeros((200, 8, 8, 1), np.uint8)
    scores = np.random.default_rng(0).uniform(size=(200, 5, 2))
    profile = build_profile(contract.preprocess, BOXES, {"image": images}, {}, scores)
    changes = {
        "postprocess": BOXES,
        "outputs": [
            {"name": "b", "datatype": "FP32", "shape": [5, 4]},
            {"name": "y", "datatype": "FP32", "shape": [5, 2]},
        ],
    }
    observer = Observer(Contract.model_validate(contract.model_dump() | changes | {"profile": profile}))
    assigned = observer.assign({"image": images}, {}, observer.interpret({"y": scores}))
    for feature in profile.features:
        counts = np.bincount(assigned[feature.name], minlength=len(feature.bins))
        np.testing.assert_allclose(counts / 200, [cell.ratio for cell in feature.bins])
    assert {"boxes", "confidence"} < set(assigned)
