from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from training.error import DataInvalid
from training.idx import decode, encode

DTYPES = st.sampled_from(["u1", "i1", "i2", "i4", "f4", "f8"])


@given(hnp.arrays(DTYPES, hnp.array_shapes(max_dims=4, max_side=5)))
def test_what_is_encoded_is_decoded(array: NDArray[Any]) -> None:
    again = decode(encode(array), "file")
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)


@given(st.binary(max_size=64))
def test_garbage_is_refused_or_an_array(data: bytes) -> None:
    try:
        array = decode(data, "file")
    except DataInvalid:
        return
    assert encode(array) == data


@given(st.integers(0, 23))
def test_a_truncated_file_is_refused(length: int) -> None:
    data = encode(np.arange(12, dtype=np.uint8).reshape(3, 4))
    assert len(data) == 24
    with pytest.raises(DataInvalid, match="file: expected"):
        decode(data[:length], "file")


def test_a_dtype_that_the_format_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="got complex64"):
        encode(np.zeros(2, np.complex64))
