import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from contract.agreement import METRIC_TOLERANCE, changed_ratio, in_order_of, largest_error, scaled
from contract.postprocess import interpret
from contract.schema import (
    BoxesPostprocess,
    ClassificationPostprocess,
    MaskPostprocess,
    TensorPostprocess,
    TokenLabelsPostprocess,
)

FINITE = arrays(np.float32, (3, 4), elements=st.floats(-1e4, 1e4, width=32))
LABELS = ClassificationPostprocess(tensor="logits", labels=("a", "b", "c", "d"))


@given(expected=FINITE, got=FINITE)
def test_the_error_is_the_largest_difference_in_units_of_the_largest_value(
    expected: np.ndarray, got: np.ndarray
) -> None:
    scale = max(1.0, float(np.abs(expected.astype(np.float64)).max()))
    largest = max(abs(float(a) - float(b)) for a, b in zip(expected.flat, got.flat, strict=True))
    assert largest_error({"x": expected}, {"x": got}) == pytest.approx(largest / scale)
    assert largest_error({"x": expected}, {"x": expected}) == 0


@given(expected=FINITE)
def test_rounding_to_half_precision_is_within_its_tolerance(expected: np.ndarray) -> None:
    """Half of FP16's spacing is 2^-11 of the value: ten times less than what is allowed."""
    assert scaled(expected, expected.astype(np.float16)) <= 2**-11


def test_small_values_are_compared_as_they_are() -> None:
    assert largest_error({"x": np.array([0.01])}, {"x": np.array([0.02])}) == pytest.approx(0.01)


def test_the_worst_output_counts_and_integers_are_equal_or_not() -> None:
    expected = {"x": np.array([1.0]), "ids": np.array([1, 2])}
    assert largest_error(expected, {"x": np.array([1.5]), "ids": np.array([1, 2])}) == 0.5
    assert largest_error(expected, {"x": np.array([1.0]), "ids": np.array([1, 3])}) == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_isnt_finite_cant_be_compared(value: float) -> None:
    for expected, got in ((1.0, value), (value, 1.0), (value, value)):
        with pytest.raises(ValueError, match="output 'x' holds NaN or infinity"):
            largest_error({"x": np.array([expected])}, {"x": np.array([got])})


def test_nor_can_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"output 'x': expected shape \[2\], got \[1\]"):
        largest_error({"x": np.zeros(2)}, {"x": np.zeros(1)})


@given(expected=FINITE, got=FINITE, targets=arrays(np.int64, 3, elements=st.integers(0, 3)))
def test_accuracy_falls_by_no_more_than_the_share_of_changed_labels(
    expected: np.ndarray, got: np.ndarray, targets: np.ndarray
) -> None:
    changed = changed_ratio(LABELS, {"logits": expected}, {"logits": got})
    assert changed is not None
    said = [interpret(LABELS, {"logits": scores}) for scores in (expected, got)]
    before, after = ((scores.argmax(axis=1) == targets).mean() for scores in said if scores is not None)
    assert before - after <= changed + 1e-12


def test_tokens_and_pixels_are_counted_where_they_have_labels() -> None:
    before, after = np.zeros((1, 2, 2, 2), np.float32), np.zeros((1, 2, 2, 2), np.float32)
    after[0, 1, 0, 1] = 9
    mask = MaskPostprocess(tensor="m", labels=("ground", "road"))
    assert changed_ratio(mask, {"m": before}, {"m": after}) == 0.25
    tags = TokenLabelsPostprocess(tensor="t", labels=("O", "PER"), outside="O")
    assert changed_ratio(tags, {"t": before[0]}, {"t": after[0]}) == 0.25


def test_what_a_graph_decides_is_counted_and_not_measured() -> None:
    before, after = {"x": np.zeros(3), "ids": np.arange(8)}, {"x": np.full(3, 0.5), "ids": np.arange(8)}
    after["ids"][3] = 99
    assert changed_ratio(TensorPostprocess(), before, after) == 0.125
    assert largest_error(before, after, TensorPostprocess()) == 0.5
    with pytest.raises(ValueError, match="output 'ids': expected shape"):
        largest_error(before, after | {"ids": np.arange(7)}, TensorPostprocess())


def test_boxes_are_the_same_in_another_order_and_a_little_moved() -> None:
    spec = BoxesPostprocess(boxes_tensor="boxes", scores_tensor="scores", labels=("cat", "dog"), min_score=0.5)
    boxes = np.array([[[0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.9, 0.9], [0.0, 0.0, 1.0, 1.0]]])
    before = {"boxes": boxes, "scores": np.array([[[0.9, 0.0], [0.8, 0.0], [0.1, 0.0]]])}
    same = {"boxes": boxes[:, [1, 0, 2]] + 0.01, "scores": before["scores"]}
    assert changed_ratio(spec, before, same) == 0
    assert largest_error(before, same, spec) == 0
    other_label = {"boxes": boxes, "scores": np.array([[[0.9, 0.0], [0.0, 0.8], [0.1, 0.0]]])}
    assert changed_ratio(spec, before, other_label) == 0.5
    one_less = {"boxes": boxes, "scores": np.array([[[0.9, 0.0], [0.4, 0.0], [0.1, 0.0]]])}
    assert changed_ratio(spec, before, one_less) == pytest.approx(1 / 3)
    none = {"boxes": boxes, "scores": np.zeros((1, 3, 2))}
    assert changed_ratio(spec, none, none) == 0


def test_boxes_of_one_score_may_change_places_and_nothing_else() -> None:
    spec = BoxesPostprocess(boxes_tensor="boxes", scores_tensor="scores", labels=("cat",), min_score=0.5)
    boxes = np.array([[[0.1, 0.1, 0.2, 0.2], [0.5, 0.5, 0.9, 0.9], [0, 0, 0, 0]]], np.float32)
    scores = np.array([[[0.7], [0.7], [0]]], np.float32)
    expected = {"boxes": boxes, "scores": scores}
    swapped = {"boxes": boxes[:, [1, 0, 2]], "scores": scores}
    assert largest_error(expected, swapped) > 0.5
    assert largest_error(expected, in_order_of(expected, swapped, spec)) == 0
    moved = {"boxes": swapped["boxes"] + np.float32(0.01), "scores": scores}
    assert largest_error(expected, in_order_of(expected, moved, spec)) == pytest.approx(0.01, rel=1e-4)
    unsure = {"boxes": boxes, "scores": scores * np.float32(0.9)}
    assert largest_error(expected, in_order_of(expected, unsure, spec)) == pytest.approx(0.07, rel=1e-4)
    other = {"boxes": boxes[:, :2], "scores": scores[:, :2]}
    assert in_order_of(expected, other, spec) is other


def test_a_model_that_decides_nothing_has_no_share_of_changed_answers() -> None:
    assert changed_ratio(TensorPostprocess(), {"x": np.zeros(2)}, {"x": np.ones(2)}) is None
    assert METRIC_TOLERANCE == 0.01
