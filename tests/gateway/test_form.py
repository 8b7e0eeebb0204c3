"""A request whose form is known means what it would mean if it were read from the start."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.error import TensorError
from gateway.error import InvalidRequest
from gateway.form import MAX_FORMS, Forms
from gateway.v2 import InferRequest, read_request

NUMBERS = st.one_of(st.integers(-300, 300), st.floats(width=32, allow_nan=False, allow_infinity=False))
SCALARS = st.one_of(NUMBERS, st.booleans(), st.text(max_size=4), st.none())
DATA = st.one_of(
    st.lists(NUMBERS, max_size=4), st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
)


def request(data: Any, **fields: Any) -> bytes:
    return json.dumps(
        {"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": data}], **fields}, separators=(",", ":")
    ).encode()


def outcome(read: Any, body: bytes) -> Any:
    """What reading comes to, in a form that can be compared."""
    try:
        got: InferRequest = read(body)
    except (InvalidRequest, TensorError) as exc:
        return type(exc), str(exc)
    tensors = {name: (array.dtype, array.shape, array.tolist()) for name, array in got.tensors.items()}
    return tensors, got.outputs, got.id, got.parameters, got.binary_default, got.input_parameters


@given(st.lists(DATA, min_size=1, max_size=4), st.sampled_from([{}, {"outputs": [{"name": "y"}]}, {"id": "7"}]))
def test_what_is_read_by_its_form_is_what_is_read_from_the_start(datas: list[Any], fields: dict[str, Any]) -> None:
    forms = Forms()
    for data in [[1, 2.5], *datas, [3, 4]]:
        body = request(data, **fields)
        assert outcome(forms.read, body) == outcome(read_request, body)


@pytest.mark.parametrize(
    "data",
    [
        b"[1,2],\"data\":[3,4]", b"[1,2]}]},{\"x\":[1]", b"[1,2", b"[1,2]]", b"", b"1", b"[NaN,1]", b"[1,2]//",
        b"[1,2] ",
        b"[1,2],\"name\":\"y\"", b"[1,2],\"parameters\":{\"binary_data_size\":8}", b"\xff[1,2]", b"[1e999,2]",
    ],
)  # fmt: skip
def test_data_that_is_no_list_of_values_changes_nothing_else(data: bytes) -> None:
    forms = Forms()
    first = request([1, 2])
    forms.read(first)
    body = first.replace(b"[1,2]", data)
    assert outcome(forms.read, body) == outcome(read_request, body)


def test_what_surrounds_the_data_is_part_of_the_form() -> None:
    forms = Forms()
    for name, shape in (("x", [2]), ("y", [2]), ("x", [2, 1]), ("x", [2])):
        body = json.dumps({"inputs": [{"name": name, "shape": shape, "datatype": "FP32", "data": [1, 2]}]}).encode()
        body = body.replace(b'"data": ', b'"data":')
        assert forms.read(body).tensors[name].shape == tuple(shape)


def test_the_data_of_several_inputs_is_read_from_the_start() -> None:
    forms = Forms()
    for values in ([1, 2], [3, 4], [5, 6]):
        inputs = [{"name": n, "shape": [2], "datatype": "FP32", "data": values} for n in ("a", "b")]
        got = forms.read(json.dumps({"inputs": inputs}, separators=(",", ":")).encode())
        assert {name: array.tolist() for name, array in got.tensors.items()} == {"a": values, "b": values}


def test_no_more_than_so_many_forms_are_kept() -> None:
    forms = Forms()
    for number in range(MAX_FORMS + 10):
        forms.read(request([1, 2]).replace(b'"x"', b'"x%d"' % number))
    assert 0 < len(forms) <= MAX_FORMS
    assert np.array_equal(forms.read(request([8, 9])).tensors["x"], [8, 9])
