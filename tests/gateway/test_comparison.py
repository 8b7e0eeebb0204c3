"""What counts as the same answer, and how a difference is shown."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from contract.tensor import DTYPES
from gateway.comparison import MAX_DIFFERENCES, Comparison, compare, same_first

INF, NAN = float("inf"), float("nan")


def compared(ours: Any, theirs: Any, dtype: Any = np.float32, rtol: float = 1e-3, atol: float = 1e-3) -> Comparison:
    return compare({"y": np.array(ours, dtype)}, {"y": np.array(theirs, dtype)}, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed", "max_error"),
    [
        ([1.0, 2.0], [1.0, 2.0], True, 0),
        ([0.0], [0.0009], True, 0.0009),  # within atol
        ([1000.0], [1000.9], True, 0.9),  # within rtol
        ([1.0], [1.01], False, 0.01),
        ([NAN, INF, -INF], [NAN, INF, -INF], True, 0),
        ([NAN], [1.0], False, INF),
        ([1.0], [NAN], False, INF),
        ([INF], [1.0], False, INF),
        ([INF], [-INF], False, INF),
        ([], [], True, 0),
        (1.0, 2.0, False, 1),
    ],
)
def test_floats_agree_within_the_tolerance(ours: Any, theirs: Any, agreed: bool, max_error: float) -> None:
    for dtype in (np.float32, np.float64):
        comparison = compared(ours, theirs, dtype)
        assert (not comparison.differences) is agreed
        assert comparison.max_error == pytest.approx(max_error, rel=1e-3)


def test_bfloat16_is_compared_by_value() -> None:
    ours, theirs = (np.array([bits], "<u2").view(DTYPES["BF16"]) for bits in (0x3F80, 0x3F81))  # 1 and its neighbour
    comparison = compare({"y": ours}, {"y": theirs}, rtol=0, atol=0)
    assert comparison.max_error == 2**-7
    assert comparison.differences[0]["primary"] == {"datatype": "BF16", "shape": [1], "values": [1.0]}
    assert not compare({"y": ours}, {"y": theirs}, rtol=0.01, atol=0).differences


@pytest.mark.parametrize(
    ("dtype", "ours", "theirs"),
    [("i8", [1, 2], [1, 3]), ("?", [True, False], [True, True]), ("O", [b"a", b"b"], [b"a", b"c"])],
)
def test_everything_else_has_to_be_equal(dtype: str, ours: list[Any], theirs: list[Any]) -> None:
    assert not compared(ours, ours, dtype, atol=10).differences
    comparison = compared(ours, theirs, dtype, atol=10)
    assert comparison.max_error is None
    assert comparison.differences[0]["what"] == "1 of 2 values differ"
    assert comparison.differences[0]["worst"]["index"] == [1]


def test_names_datatypes_and_shapes_are_compared() -> None:
    one, other = np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32)
    comparison = compare(
        {"a": one, "b": one, "c": one}, {"a": other, "b": one.astype(np.float16), "d": one}, rtol=0, atol=0
    )
    assert [difference["what"] for difference in comparison.differences] == [
        "expected FP32 [1, 3], got FP32 [1, 4]",
        "expected FP32 [1, 3], got FP16 [1, 3]",
        "only the primary has it",
        "only the shadow has it",
    ]
    assert comparison.max_error is None


def test_the_worst_value_is_shown_with_its_place() -> None:
    difference = compared([[0, 0, 0], [0, 1, NAN]], [[0, 0.5, 0], [0, 0, NAN]]).differences[0]
    assert difference["what"] == "2 of 6 values differ"
    assert difference["worst"] == {"index": [1, 1], "primary": 1, "shadow": 0}
    assert difference["primary"] == {"datatype": "FP32", "shape": [2, 3], "values": [0, 0, 0, 0, 1, "nan"]}


def test_however_large_the_tensors_what_is_kept_is_small() -> None:
    ours = {f"{number}-{'x' * 500}": np.array([b"\xff" * 10_000] * 1000, object) for number in range(20)}
    theirs = {name: array[::-1] + b"!" for name, array in ours.items()}
    differences = compare(ours, theirs, rtol=0, atol=0).differences
    assert len(differences) == MAX_DIFFERENCES
    assert len(json.dumps(differences)) < 250_000


@given(arrays.arrays(np.float32, (2, 3)), arrays.arrays(np.float32, (2, 3)))
def test_any_floats_compare_as_numpy_says(ours: Any, theirs: Any) -> None:
    comparison = compared(ours, theirs)
    with np.errstate(all="ignore"):
        expected = np.allclose(theirs.astype(float), ours.astype(float), rtol=1e-3, atol=1e-3, equal_nan=True)
    assert (not comparison.differences) is expected
    json.dumps(comparison.differences, allow_nan=False)
    assert not compared(ours, ours, rtol=0, atol=0).differences


@given(st.integers(1, 5))
def test_first_classes_are_counted_a_sample(num_same: int) -> None:
    ours = np.eye(6)
    theirs = np.concatenate([np.eye(6)[:num_same], np.roll(np.eye(6), 1, axis=1)[num_same:]])
    assert same_first(ours, theirs) == (num_same, 6 - num_same)


@pytest.mark.parametrize("other", [None, np.zeros(3), np.zeros((3, 2)), np.zeros((0, 3)), np.zeros((3, 0))])
def test_without_comparable_classes_there_is_no_first(other: Any) -> None:
    assert same_first(np.zeros((3, 3)), other) is None
    assert same_first(other, other) in (None, (3, 0))
