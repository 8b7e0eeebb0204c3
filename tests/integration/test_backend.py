"""The onnxruntime backend in the real Triton: what goes in, what comes out, and what is said of a wrong config."""

import re

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.integration.triton import TIMES, Array, Serving, answer, make_model, times

pytestmark = pytest.mark.integration


def test_requests_of_one_batch_keep_their_rows_and_outputs(serving: Serving) -> None:
    spec = (TensorProto.FLOAT, ["n", "k"])
    nodes = [helper.make_node("Neg", ["x"], ["minus"]), helper.make_node("Abs", ["x"], ["size"])]
    config = """max_batch_size: 16
    input [ { name: "x" data_type: TYPE_FP32 dims: [-1] } ]
    output [ { name: "minus" data_type: TYPE_FP32 dims: [-1] }, { name: "size" data_type: TYPE_FP32 dims: [-1] } ]
    dynamic_batching { preferred_batch_size: [16] max_queue_delay_microseconds: 200000 }"""
    assert serving.load("pair", make_model(nodes, {"x": spec}, {"minus": spec, "size": spec}), config).healthy
    rng = np.random.default_rng(0)
    asked: list[tuple[Array, tuple[str, ...]]] = []
    for rows, width, outputs in [(3, 2, ()), (4, 5, ("size",)), (4, 2, ("minus",)), (5, 5, ("size", "minus"))]:
        asked.append((rng.standard_normal((rows, width)).astype(np.float32), outputs))
    calls = [serving.client.send("pair", {"x": x}, outputs=outputs) for x, outputs in asked]
    for (x, outputs), call in zip(asked, calls, strict=True):
        answered = answer(call)
        assert set(answered) == set(outputs or ("minus", "size"))
        expected = {"minus": -x, "size": np.abs(x)}
        for name, array in answered.items():
            np.testing.assert_array_equal(array, expected[name])


def test_a_bad_request_fails_alone(serving: Serving) -> None:
    node = helper.make_node("Gather", ["table", "ids"], ["y"])
    ids, found = (TensorProto.INT64, ["n", 1]), (TensorProto.FLOAT, ["n", 1])
    model = make_model([node], {"ids": ids}, {"y": found}, table=np.arange(10, dtype=np.float32))
    config = """max_batch_size: 4
    input [ { name: "ids" data_type: TYPE_INT64 dims: [1] } ]
    output [ { name: "y" data_type: TYPE_FP32 dims: [1] } ]
    dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 200000 }"""
    assert serving.load("lookup", model, config).healthy
    calls = [serving.client.send("lookup", {"ids": np.array([[i]], np.int64)}) for i in (1, 2, 99, 4)]
    for expected, call in zip((1, 2, None, 4), calls, strict=True):
        if expected is None:
            with pytest.raises(grpc.RpcError, match="out of data bounds") as caught:
                call.result()
            assert not re.search(r"/\w+/", str(caught.value.details()))
        else:
            assert answer(call)["y"] == [[expected]]


def test_text_goes_through_as_it_is(serving: Serving) -> None:
    spec = (TensorProto.STRING, ["n", "k"])
    config = """max_batch_size: 8
    input [ { name: "x" data_type: TYPE_STRING dims: [-1] } ]
    output [ { name: "y" data_type: TYPE_STRING dims: [-1] } ]"""
    model = make_model([helper.make_node("Identity", ["x"], ["y"])], {"x": spec}, {"y": spec})
    assert serving.load("text", model, config).healthy
    words = np.array([["ebb", ""], ["Größe 潮", "b'x'"]], dtype=object)
    answered = serving.client.infer("text", {"x": words})["y"]
    assert [word.decode() for word in answered.ravel()] == list(words.ravel())
    bad = np.array([[b"\xff\xfe"]], dtype=object)
    assert "input 'x': a BYTES element isn't UTF-8" in serving.client.refusal("text", {"x": bad})


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("FP16", np.float16), ("FP64", np.float64), ("INT8", np.int8), ("UINT8", np.uint8), ("BOOL", np.bool_)],
)
def test_datatypes_go_through_as_they_are(serving: Serving, kind: str, dtype: type[np.generic]) -> None:
    spec = (helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), ["n", 3])
    config = f"""max_batch_size: 8
    input [ {{ name: "x" data_type: TYPE_{kind} dims: [3] }} ]
    output [ {{ name: "y" data_type: TYPE_{kind} dims: [3] }} ]"""
    model = make_model([helper.make_node("Identity", ["x"], ["y"])], {"x": spec}, {"y": spec})
    assert serving.load("same", model, config).healthy
    x = np.array([[0, 1, 2], [3, 0, 5]]).astype(dtype)
    np.testing.assert_array_equal(serving.client.infer("same", {"x": x})["y"], x)


def test_scalars_and_empty_axes(serving: Serving) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["s"], ["t"])]
    matrix, scalar = (TensorProto.FLOAT, ["n", "k"]), (TensorProto.FLOAT, ["n"])
    config = """max_batch_size: 8
    input [ { name: "x" data_type: TYPE_FP32 dims: [-1] },
            { name: "s" data_type: TYPE_FP32 dims: [1] reshape { shape: [] } } ]
    output [ { name: "y" data_type: TYPE_FP32 dims: [-1] },
             { name: "t" data_type: TYPE_FP32 dims: [1] reshape { shape: [] } } ]"""
    assert serving.load(
        "edge", make_model(nodes, {"x": matrix, "s": scalar}, {"y": matrix, "t": scalar}), config
    ).healthy
    s = np.array([[1], [2]], np.float32)
    for width in (3, 0):
        x = np.ones((2, width), np.float32)
        answered = serving.client.infer("edge", {"x": x, "s": s})
        assert answered["y"].shape == (2, width)
        np.testing.assert_array_equal(answered["t"], s)


def test_a_model_without_batch_axis_is_served(serving: Serving) -> None:
    spec = (TensorProto.FLOAT, [2, 2])
    config = """max_batch_size: 0
    input [ { name: "x" data_type: TYPE_FP32 dims: [2, 2] } ]
    output [ { name: "y" data_type: TYPE_FP32 dims: [2, 2] } ]"""
    model = make_model([helper.make_node("Transpose", ["x"], ["y"])], {"x": spec}, {"y": spec})
    assert serving.load("fixed", model, config).healthy
    x = np.array([[1, 2], [3, 4]], np.float32)
    np.testing.assert_array_equal(serving.client.infer("fixed", {"x": x})["y"], x.T)


def parameter(key: str, value: str) -> tuple[str, str]:
    return "version_policy", f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }} version_policy'


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("dims: [4]", "dims: [5]"), r"input 'x': config.pbtxt says \[5\] a sample, the model has \[4\]"),
        (("TYPE_FP32", "TYPE_FP16"), r"input 'x': config.pbtxt says TYPE_FP16, the model has tensor\(float\)"),
        (('"y"', '"z"'), r"config.pbtxt names the outputs \['z'\]; the model has \['y'\]"),
        (("size: 8", "size: 0"), r"input 'x': config.pbtxt says \[4\] a sample, the model has \['n', 4\]"),
        (parameter("intra_op_thread_count", "x"), "intra_op_thread_count: expected a non-negative integer, got 'x'"),
        (parameter("graph_optimization_level", "5"), "graph_optimization_level: expected one of -1, 1, 2, 99, got '5'"),
    ],
)
def test_a_config_that_isnt_the_graphs_is_named(serving: Serving, change: tuple[str, str], reason: str) -> None:
    state = serving.load("model", times(2), TIMES.replace(*change))
    assert state.versions == ()
    assert re.fullmatch(reason + ".*", state.problems[1])


def test_a_fixed_first_axis_cant_be_batched(serving: Serving) -> None:
    spec = (TensorProto.FLOAT, [1, 4])
    model = make_model([helper.make_node("Neg", ["x"], ["y"])], {"x": spec}, {"y": spec})
    assert serving.load("model", model, TIMES).problems[1] == (
        "input 'x': max_batch_size needs a dynamic first axis, the model has shape [1, 4]: export it so, or set 0"
    )


def test_a_missing_model_file_is_named(serving: Serving) -> None:
    serving.publish("model", times(2), TIMES)
    (serving.repository.version_dir("model", 1) / "model.onnx").unlink()
    assert serving.loader.reconcile()["model"].problems[1] == (
        "model/1/model.onnx doesn't exist: the version's folder must hold the ONNX file"
    )


# Triton's own life
