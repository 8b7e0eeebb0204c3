"""The unmodified client of Triton writes what we read, and reads what we write."""

from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.grpc._utils import _get_inference_request

from contract.tensor import DTYPES, to_raw
from gateway.message import read_message, write_message
from gateway.v2 import read_request, write_response

triton_http = pytest.importorskip("tritonclient.http", exc_type=ImportError)
Client = triton_http.InferenceServerClient

Array = np.ndarray[Any, Any]
TEXTS = np.array([["tide", "gate"], ["ébb", ""]], object)
SAMPLES: dict[str, Array] = {
    "BOOL": np.array([[True, False]]),
    "FP16": np.array([[0.5, -2]], np.float16),
    "FP32": np.array([[0.1, -2e30]], np.float32),
    "FP64": np.array([[0.1, -2e300]]),
    "BYTES": TEXTS,
    **{
        name: np.array([[np.iinfo(DTYPES[name]).min, np.iinfo(DTYPES[name]).max]], DTYPES[name])
        for name in DTYPES
        if "INT" in name
    },
}
SCORES = {"y": np.array([[0.25, 0.5, 0.125]], np.float32), "t": TEXTS, "h": np.array([0.5], np.float16)}


def http_input(name: str, datatype: str, array: Array, *, binary: bool) -> Any:
    return triton_http.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array, binary_data=binary)


def assert_same(got: Array, expected: Array) -> None:
    assert got.shape == expected.shape
    assert to_raw(got) == to_raw(expected)


X = http_input("x", "FP32", SAMPLES["FP32"], binary=True)


@pytest.mark.parametrize(
    ("datatype", "binary"),
    [*((name, True) for name in SAMPLES), *((name, False) for name in SAMPLES if name != "FP16")],
)
def test_requests_over_http(datatype: str, binary: bool) -> None:
    array = SAMPLES[datatype]
    inputs = [
        http_input("a", datatype, array, binary=binary),
        http_input("b:0", "FP32", SAMPLES["FP32"], binary=not binary),
        http_input("c", datatype, array, binary=binary),
    ]
    body, length = Client.generate_request_body(inputs, request_id="a7", priority=3, parameters={"note": "x:y"})
    request = read_request(body, None if length is None else str(length))
    assert list(request.tensors) == ["a", "b:0", "c"]
    assert_same(request.tensors["a"], array)
    assert_same(request.tensors["b:0"], SAMPLES["FP32"])
    assert_same(request.tensors["c"], array)
    assert (request.id, request.binary_default) == ("a7", True)
    assert request.parameters == {"priority": 3, "binary_data_output": True, "note": "x:y"}


@pytest.mark.parametrize("binary", [True, False])
def test_answers_over_http(binary: bool) -> None:
    outputs = [triton_http.InferRequestedOutput(name, binary_data=binary) for name in ("y", "t")]
    outputs.append(triton_http.InferRequestedOutput("h", binary_data=not binary))
    body, length = Client.generate_request_body([X], outputs=outputs)
    answer, json_length = write_response("m", "1", read_request(body, str(length)), SCORES)
    result = Client.parse_response_body(answer, header_length=json_length)
    np.testing.assert_array_equal(result.as_numpy("y"), SCORES["y"])
    np.testing.assert_array_equal(result.as_numpy("h"), SCORES["h"])
    texts = [text if isinstance(text, str) else text.decode() for text in result.as_numpy("t").ravel()]
    assert texts == TEXTS.ravel().tolist()


def test_all_outputs_in_binary_when_none_is_named() -> None:
    body, length = Client.generate_request_body([http_input("x", "FP32", SAMPLES["FP32"], binary=False)])
    assert length is None
    answer, json_length = write_response("m", "1", read_request(body), SCORES)
    result = Client.parse_response_body(answer, header_length=json_length)
    assert result.get_output("h")["datatype"] == "FP16"
    np.testing.assert_array_equal(result.as_numpy("y"), SCORES["y"])


@pytest.mark.parametrize("binary", [True, False])
def test_classes_over_http(binary: bool) -> None:
    outputs = [triton_http.InferRequestedOutput("y", binary_data=binary, class_count=2)]
    body, length = Client.generate_request_body([X], outputs=outputs)
    labels = {"y": ("cat", "dog", "eel")}
    answer, json_length = write_response("m", "1", read_request(body, str(length)), SCORES, labels=labels)
    classes = Client.parse_response_body(answer, header_length=json_length).as_numpy("y")
    said = [text if isinstance(text, str) else text.decode() for text in classes.ravel()]
    assert (classes.shape, said) == ((1, 2), ["0.500000:1:dog", "0.250000:0:cat"])


@pytest.mark.parametrize("datatype", sorted(SAMPLES))
def test_grpc(datatype: str) -> None:
    array = SAMPLES[datatype]
    tensor = triton_grpc.InferInput("x", list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    outputs = [triton_grpc.InferRequestedOutput("x"), triton_grpc.InferRequestedOutput("y", class_count=1)]
    said = _get_inference_request("m", [tensor], "1", "a7", outputs, 9, True, False, 2, 1000, {"note": 0.5})
    request = read_message(said)
    assert_same(request.tensors["x"], array)
    assert request.parameters == {
        "sequence_id": 9,
        "sequence_start": True,
        "sequence_end": False,
        "priority": 2,
        "timeout": 1000,
        "note": 0.5,
    }
    result = triton_grpc.InferResult(write_message("m", "1", request, {**request.tensors, **SCORES}))
    assert_same(result.as_numpy("x"), array)
    assert result.as_numpy("y").tolist() == [[b"0.500000:1"]]
