"""However tensors travel to Triton, it reads the same."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from contract.tensor import DTYPES, Tensors
from gateway.payload import append_inputs, columns_of, place_inputs, placed_bytes, write_inputs
from gateway.region import Region, aligned

REGION_BYTES = 4 * 1024 * 1024
FIXED = sorted(DTYPES.keys() - {"BYTES"})


@st.composite
def requests(draw: st.DrawFn, datatypes: list[str]) -> list[Tensors]:
    """What several requests hold: the same tensors, with rows of their own; a long one now and then."""
    rows = draw(st.lists(st.sampled_from([1, 2, 5, 3000]), min_size=1, max_size=4))
    specs = {
        name: (draw(st.sampled_from(datatypes)), draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4)))
        for name in draw(st.sampled_from([["x"], ["x", "y"]]))
    }
    swapped = draw(st.booleans())
    return [{name: _array(*spec, num, swapped) for name, spec in specs.items()} for num in rows]


def _array(datatype: str, shape: tuple[int, ...], num: int, swapped: bool) -> NDArray[np.generic]:
    count = num * int(np.prod(shape))
    if datatype == "BYTES":
        array = np.array([b"%d" % i for i in range(count)] + [None], object)[:-1]
    else:
        size = DTYPES[datatype].itemsize
        array = (np.arange(count * size) % 251).astype(np.uint8).view(DTYPES[datatype])
        if datatype == "BOOL":
            array = np.arange(count) % 3 == 0
        if swapped and datatype not in ("BF16", "BOOL"):
            array = array.astype(array.dtype.newbyteorder(">"))
    return array.reshape(num, *shape)


def written(parts: list[Tensors]) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="m", id="a7")
    write_inputs(request, columns_of(parts))
    return request


@given(requests(sorted(DTYPES)))
def test_what_follows_a_message_reads_as_if_it_had_been_written_into_it(parts: list[Tensors]) -> None:
    request = pb.ModelInferRequest(model_name="m", id="a7")
    tail = append_inputs(request, columns_of(parts))
    assert all(tail)
    assert pb.ModelInferRequest.FromString(b"".join((request.SerializeToString(), *tail))) == written(parts)


@pytest.fixture(scope="module")
def region() -> Iterator[Region]:
    region = Region(REGION_BYTES)
    yield region
    region.close()


@given(requests(FIXED))
def test_what_is_placed_in_shared_memory_is_what_a_message_would_hold(region: Region, parts: list[Tensors]) -> None:
    columns = columns_of(parts)
    size = placed_bytes(columns)
    assert size is not None
    assert size >= sum(aligned(array.nbytes) for arrays in columns.values() for array in arrays[:1])
    before, place = region.lend(64), region.lend(size)
    assert before is not None
    assert place is not None
    try:
        request = pb.ModelInferRequest(model_name="m", id="a7")
        place_inputs(request, columns, place)
        assert not request.raw_input_contents
        whole = np.concatenate((before.memory, place.memory)).tobytes()
        for tensor in request.inputs:
            assert tensor.parameters["shared_memory_region"].string_param == region.name
            start = tensor.parameters["shared_memory_offset"].int64_param - before.offset
            end = start + tensor.parameters["shared_memory_byte_size"].int64_param
            request.raw_input_contents.append(whole[start:end])
            tensor.parameters.clear()
        assert request == written(parts)
    finally:
        region.take_back(before)
        region.take_back(place)


def test_texts_have_no_place_in_shared_memory() -> None:
    assert placed_bytes({"x": [np.zeros(3)], "y": [np.array([b"a"], object)]}) is None
    assert placed_bytes({"x": [np.zeros(3)], "y": [np.array(["a"])]}) is None


def test_what_is_large_is_not_copied() -> None:
    large = np.zeros((3, 100_000), np.float32)
    _, view = append_inputs(pb.ModelInferRequest(), {"x": [large]})
    assert np.shares_memory(np.asarray(view), large)
