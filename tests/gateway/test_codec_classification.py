from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from contract.tensor import from_raw
from gateway.classification import classify
from gateway.error import InvalidRequest


@pytest.mark.parametrize(
    ("array", "k", "expected"),
    [
        (np.array([[0.1, 0.7, 0.2]], np.float32), 2, [[b"0.700000:1:b", b"0.200000:2"]]),
        (np.array([[0.5, 0.5, 0.5]], np.float16), 9, [[b"0.500000:0:a", b"0.500000:1:b", b"0.500000:2"]]),
        (np.array([[np.nan, np.inf, -np.inf]]), 3, [[b"inf:1:b", b"-inf:2", b"nan:0:a"]]),
        (np.array([[1, 255, 0], [3, 4, 5]], np.uint8), 1, [[b"255:1:b"], [b"5:2"]]),
        (np.array([[-128, 127, 0]], np.int8), 3, [[b"127:1:b", b"0:2", b"-128:0:a"]]),
        (np.array([[2**64 - 1, 0]], np.uint64), 2**63, [[b"18446744073709551615:0:a", b"0:1:b"]]),
        (np.array([[[1, 2], [3, 4]]], np.int32), 1, [[b"4:3"]]),
        (np.array([1, 3, 2], np.int64), 2, [b"3:1:b", b"2:2"]),
        (np.zeros((0, 3), np.float32), 2, np.zeros((0, 2)).tolist()),
        (np.zeros((2, 0), np.float32), 2, [[], []]),
    ],
)
def test_the_best_classes_come_first(array: Any, k: int, expected: list[Any]) -> None:
    assert classify(array, k, ("a", "b")).tolist() == expected


@given(hnp.arrays(np.float32, (2, 7), elements=st.floats(-100, 100, width=32)), st.integers(1, 9))
def test_scores_fall_and_no_class_comes_twice(array: Any, k: int) -> None:
    for scores, row in zip(array, classify(array, k).tolist(), strict=True):
        said = [(float(score), int(index)) for score, index in (text.split(b":") for text in row)]
        assert len({index for _, index in said}) == min(k, 7)
        assert said == sorted(said, key=lambda pair: -pair[0])
        assert all(score == pytest.approx(scores[index], abs=1e-6) for score, index in said)
        assert max(scores) == pytest.approx(said[0][0], abs=1e-6)


@pytest.mark.parametrize(
    "array",
    [np.array([b"a"], object), np.array([[True]]), np.float32(1).reshape(()), from_raw("y", "BF16", (1,), b"\0\0")],
)
def test_what_has_no_order_is_refused(array: Any) -> None:
    with pytest.raises(InvalidRequest, match="expected an output of numbers to classify"):
        classify(array, 1)
