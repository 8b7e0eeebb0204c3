from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from contract.error import TensorError
from contract.schema import AxisRange, TensorSpec
from contract.tensor import DTYPES, as_samples, as_sent, check_inputs, datatype_of, from_raw, from_values, to_raw

FIXED = sorted(set(DTYPES) - {"BYTES", "BF16"})
IN_JSON = sorted(set(FIXED) - {"FP16"})
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@st.composite
def arrays(draw: st.DrawFn, datatypes: list[str]) -> tuple[str, np.ndarray[Any, Any]]:
    datatype = draw(st.sampled_from(datatypes))
    return datatype, draw(hnp.arrays(DTYPES[datatype], draw(shapes)))


@given(arrays(FIXED))
def test_raw_form_comes_back_the_same(case: tuple[str, np.ndarray[Any, Any]]) -> None:
    datatype, array = case
    again = from_raw("x", datatype, array.shape, to_raw(array))
    assert datatype_of(again) == datatype
    np.testing.assert_array_equal(again, array)


@given(arrays(IN_JSON))
def test_json_values_come_back_the_same_flat_and_nested(case: tuple[str, np.ndarray[Any, Any]]) -> None:
    datatype, array = case
    if array.dtype.kind == "f":
        array = np.nan_to_num(array)
    flat = from_values("x", datatype, array.shape, array.ravel().tolist())
    np.testing.assert_array_equal(flat, array)
    if array.ndim and array.size:
        np.testing.assert_array_equal(from_values("x", datatype, array.shape, array.tolist()), array)


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_bytes_elements_come_back_the_same(elements: list[bytes]) -> None:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    assert from_raw("x", "BYTES", array.shape, to_raw(array)).tolist() == elements


@given(st.binary(max_size=40), st.integers(0, 2**40))
def test_bytes_that_lie_about_their_length_are_refused_or_read_whole(data: bytes, count: int) -> None:
    try:
        array = from_raw("x", "BYTES", (count,), data)
    except TensorError:
        return
    assert to_raw(array) == data


def test_bf16_is_carried_as_it_is() -> None:
    assert to_raw(from_raw("x", "BF16", (2,), b"\x80\x3f\x00\x40")) == b"\x80\x3f\x00\x40"
    assert datatype_of(from_raw("x", "BF16", (2,), b"\x80\x3f\x00\x40")) == "BF16"


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "said"),
    [
        ("FP32", [2], b"1234567", "expected 8 bytes for FP32 \\[2\\], got 7"),
        ("FP32", [-1], b"", "non-negative integer"),
        ("FP32", [True], b"1234", "non-negative integer"),
        ("FP32", [2**31 - 1, 2**31 - 1], b"", "expected 18446744056529682436 bytes"),
        ("FP32", [0, 2**62, 2**62], b"", "up to 2147483647"),
        ("FP32", [1] * 100, b"1234", "at most 32 axes, got 100"),
        ("COMPLEX", [1], b"", "unknown datatype 'COMPLEX'"),
        ("BYTES", [1], b"\xff\xff\xff\x7f", "claims more bytes"),
        ("BYTES", [1], b"\x00\x00\x00\x00x", "1 bytes are left"),
    ],
)
def test_bad_raw_data_is_named(datatype: str, shape: list[int], data: bytes, said: str) -> None:
    with pytest.raises(TensorError, match=said):
        from_raw("x", datatype, shape, data)


DEEP: list[Any] = []
for _ in range(2000):  # deeper than repr() can go
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("datatype", "shape", "values", "said"),
    [
        ("UINT8", [1], [256], "outside the range of UINT8"),
        ("UINT8", [1], [-1], "outside the range of UINT8"),
        ("INT64", [1], [2**63], "outside the range of INT64"),
        ("INT32", [1], [1.0], "1.0 is no INT32"),
        ("INT32", [2], [1, True], "True is no INT32"),
        ("BOOL", [1], [1], "1 is no BOOL"),
        ("FP32", [1], ["1"], "'1' is no FP32"),
        ("FP32", [1], [1e39], "outside the range of FP32"),
        ("FP16", [1], [1.0], "FP16 has no JSON form"),
        ("BYTES", [1], [1], "1 is no BYTES"),
        ("FP32", [2], [[1.0], 2.0], "mixes lists and values"),
        ("FP32", [3], [1.0, 2.0], "expected 3 values"),
        ("FP64", [1], [10**400], "outside the range of FP64"),
        ("FP32", [1], [{"a": DEEP}], "is no FP32"),
        ("FP32", DEEP, [1.0], "non-negative integer"),
        ("FP32", [1], DEEP, "nested more than 32 deep"),
    ],
)
def test_bad_json_values_are_named(datatype: str, shape: list[int], values: list[Any], said: str) -> None:
    with pytest.raises(TensorError, match=said):
        from_values("x", datatype, shape, values)


def test_nan_and_infinity_are_left_to_the_contract() -> None:
    array = from_values("x", "FP32", (2,), [float("nan"), float("-inf")])
    np.testing.assert_array_equal(array, [np.nan, -np.inf])


def test_other_layouts_have_the_same_raw_form() -> None:
    array = np.arange(6, dtype=">i4").reshape(2, 3)
    assert datatype_of(array) == "INT32"
    assert to_raw(array.T) == np.array([0, 3, 1, 4, 2, 5], "<i4").tobytes()
    assert to_raw(np.array([["a", "é"]])) == b"\x01\0\0\0a\x02\0\0\0\xc3\xa9"
    assert datatype_of(np.array([b"a"])) == "BYTES"
    with pytest.raises(TensorError, match="complex128 has no V2 datatype"):
        datatype_of(np.zeros(1, complex))


IDS = TensorSpec(name="ids", datatype="INT64", shape=(-1,), ranges=(AxisRange(min=1, opt=8, max=16),))
GRID = TensorSpec(name="grid", datatype="FP32", shape=(2, -1), ranges=IDS.ranges, allow_nan=True)
SCORE = TensorSpec(name="score", datatype="FP32", shape=(2,))
BATCH = AxisRange(min=1, opt=2, max=4)


def test_inputs_within_the_contract_pass() -> None:
    tensors: Any = {"ids": np.zeros((3, 16), np.int64), "score": np.zeros((3, 2), np.float32)}
    assert check_inputs((IDS, SCORE), BATCH, tensors) == 3
    assert check_inputs((GRID,), BATCH, {"grid": np.full((1, 2, 16), np.nan, np.float32)}) == 1
    with pytest.raises(TensorError, match=r"expected shape \[1\.\.4, 2, 1\.\.16\], got \[1, 3, 16\]"):
        check_inputs((GRID,), BATCH, {"grid": np.zeros((1, 3, 16), np.float32)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ids": np.zeros((3, 17), np.int64)}, r"expected shape \[1\.\.4, 1\.\.16\], got \[3, 17\]"),
        ({"ids": np.zeros((5, 4), np.int64)}, r"got \[5, 4\]"),
        ({"ids": np.zeros((0, 4), np.int64)}, r"got \[0, 4\]"),
        ({"ids": np.zeros(4, np.int64)}, r"got \[4\]"),
        ({"ids": np.zeros((3, 4), np.int32)}, "expected datatype INT64, got INT32"),
        ({"ids": np.zeros((2, 4), np.int64)}, "different batch sizes"),
        ({"score": np.full((3, 2), np.nan, np.float32)}, "NaN or infinity"),
        ({"extra": np.zeros((1, 1))}, "expected the inputs"),
    ],
)
def test_inputs_outside_the_contract_are_named(change: dict[str, Any], said: str) -> None:
    tensors: Any = {
        "ids": np.zeros((3, 4), np.int64),
        "score": np.zeros((3, 2), np.float32),
    }
    with pytest.raises(TensorError, match=said):
        check_inputs((IDS, SCORE), BATCH, tensors | change)


def test_without_a_batch_axis_a_request_is_one_sample() -> None:
    tensors: Any = {"ids": np.zeros(16, np.int64), "score": np.zeros(2, np.float32)}
    assert check_inputs((IDS, SCORE), None, tensors) == 1
    with pytest.raises(TensorError, match=r"expected shape \[1\.\.16\], got \[1, 16\]"):
        check_inputs((IDS, SCORE), None, as_samples(None, tensors))
    assert as_samples(BATCH, tensors) is tensors
    assert as_sent(BATCH, tensors) is tensors
    there_and_back = as_sent(None, as_samples(None, tensors))
    assert {name: array.shape for name, array in there_and_back.items()} == {"ids": (16,), "score": (2,)}


def test_a_scalar_travels_as_one_element() -> None:
    rate = TensorSpec(name="rate", datatype="FP32", shape=())
    assert check_inputs((rate,), BATCH, {"rate": np.zeros((3, 1), np.float32)}) == 3
    assert check_inputs((rate,), None, {"rate": np.zeros(1, np.float32)}) == 1
    with pytest.raises(TensorError, match=r"expected shape \[1\.\.4, 1\], got \[3\]"):
        check_inputs((rate,), BATCH, {"rate": np.zeros(3, np.float32)})
