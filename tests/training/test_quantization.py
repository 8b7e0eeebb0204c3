"""INT8 and FP16: the graphs, what they lose, and what TensorRT-RTX makes of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from contract.agreement import Precision, scaled
from contract.schema import AxisRange, TensorSpec
from serving.compilation import build
from serving.gpu import find_gpu
from training.error import ExportFailed, ParityFailed
from training.half import halve
from training.parity import Graph, check_lowered
from training.quantization import Target, quantize

BATCH = AxisRange(min=1, opt=4, max=8)
IMAGE = TensorSpec(name="x", datatype="FP32", shape=(3, 8, 8))
SCORES = TensorSpec(name="y", datatype="FP32", shape=(5,))
RNG = np.random.default_rng(0)
SAMPLES = RNG.standard_normal((64, 3, 8, 8)).astype(np.float32)


def write_model(path: Path, peak: float = 1.0) -> Path:
    """A convolution, an activation, a mean and a matrix product: `x` `[N, 3, 8, 8]` to `y` `[N, 5]`.

    With `peak`, what lies between is that many times larger, and divided by it again at the end.
    """
    rng = np.random.default_rng(1)
    weights = {
        "kernel": rng.standard_normal((6, 3, 3, 3)) * peak / 5,
        "bias": rng.standard_normal(6) * peak,
        "matrix": rng.standard_normal((6, 5)),
        "peak": np.array(peak),
        "axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["convolved"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["convolved"], ["positive"], name="relu"),
        helper.make_node("ReduceMean", ["positive", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "peak"], ["small"]),
        helper.make_node("MatMul", ["small", "matrix"], ["y"], name="product"),
    ]
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [
            numpy_helper.from_array(value.astype(np.int64 if name == "axes" else np.float32), name)
            for name, value in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def in_batches() -> Iterator[dict[str, NDArray[np.float32]]]:
    return ({"x": SAMPLES[start : start + 8]} for start in range(0, 64, 8))


def as_written(source: Path, made: Path) -> tuple[Graph, Graph]:
    return Graph(source, [SCORES]), Graph(made, [SCORES], as_written=True)


def answer(path: Path) -> NDArray[np.float32]:
    return np.asarray(ort.InferenceSession(path).run(["y"], {"x": SAMPLES})[0])


@pytest.mark.parametrize(("target", "activation"), [("cpu", np.uint8), ("tensorrt", np.int8)])
def test_int8_is_calibrated_on_real_inputs(tmp_path: Path, target: Target, activation: type) -> None:
    source, made = write_model(tmp_path / "model.onnx"), tmp_path / "int8.onnx"
    quantize(source, made, in_batches(), target=target)
    model = onnx.load(made)
    weights = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
    zero_points = {weights[n.input[2]].dtype for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert zero_points == {np.dtype(activation)}
    assert weights["kernel_quantized"].dtype == np.int8
    assert weights["kernel_scale"].shape == (6,)  # a scale for each channel
    assert any(weight.dtype == np.int32 for weight in weights.values()) == (target == "cpu")
    assert 1e-4 < scaled(answer(source), answer(made)) < 0.05
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "int8.onnx"}


def test_the_same_samples_make_the_same_file(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model.onnx")
    for name in ("a", "b"):
        quantize(source, tmp_path / name, in_batches(), target="cpu")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_graph_with_nothing_to_quantize_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Exp", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, 8, 8]) for name in "xy"]
    graph = helper.make_graph([node], "model", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ExportFailed, match="no INT8 form: none of its nodes is one of Conv, "):
        quantize(tmp_path / "model.onnx", tmp_path / "int8.onnx", in_batches(), target="cpu")
    assert not (tmp_path / "int8.onnx").exists()


def test_fp16_is_within_its_tolerance_and_keeps_the_interface(tmp_path: Path) -> None:
    source, made = write_model(tmp_path / "model.onnx"), tmp_path / "half.onnx"
    assert halve(source, made, {"x": SAMPLES[:8]}) == ()
    model = onnx.load(made)
    assert {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)} == {1}
    assert any(weight.data_type == TensorProto.FLOAT16 for weight in model.graph.initializer)
    shown, expected, got = check_lowered(*as_written(source, made), {"x": SAMPLES}, BATCH, "FP16")
    assert shown.batch_sizes == (1, 4, 8)
    assert scaled(expected["y"], got["y"]) <= shown.max_error < 5e-3


def test_nodes_that_leave_half_precisions_range_stay_in_single(tmp_path: Path) -> None:
    source, made = write_model(tmp_path / "model.onnx", peak=1e6), tmp_path / "half.onnx"
    kept = halve(source, made, {"x": SAMPLES[:8]})
    assert "relu" in kept
    assert "product" not in kept
    shown, _, _ = check_lowered(*as_written(source, made), {"x": SAMPLES}, BATCH, "FP16")
    assert shown.max_error < 5e-3


def test_an_input_beyond_half_precisions_range_never_passes_through_it(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Div", ["x", "much"], ["small"], name="small"),
            helper.make_node("MatMul", ["small", "matrix"], ["y"], name="product"),
        ],
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [
            numpy_helper.from_array(np.array(1e6, np.float32), "much"),
            numpy_helper.from_array(np.eye(5, dtype=np.float32), "matrix"),
        ],
    )
    source, made = tmp_path / "source.onnx", tmp_path / "half.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), source)
    rows = {"x": np.full((8, 5), 99_999, np.float32)}
    assert halve(source, made, rows) == ("small",)
    shown, _, _ = check_lowered(*as_written(source, made), rows, BATCH, "FP16")
    assert shown.max_error < 5e-3


def test_an_overflow_that_no_sample_showed_is_caught_and_its_node_named(tmp_path: Path) -> None:
    source, made = write_model(tmp_path / "model.onnx"), tmp_path / "half.onnx"
    halve(source, made, {"x": SAMPLES[:8]})
    large = {"x": SAMPLES * 1e5}
    message = r"the FP16 graph answers NaN or infinity; the first tensor that disagrees is 'convolved' of .*\(Conv\)"
    with pytest.raises(ParityFailed, match=message):
        check_lowered(*as_written(source, made), large, BATCH, "FP16")
    # Left to itself, ONNX Runtime computes it in FP32 from node to node and sees nothing.
    assert np.isfinite(Graph(made, [SCORES]).run_all(large, 8)["y"]).all()


def write_masked(path: Path) -> Path:
    """`x` `[N, 5]` plus a constant, masked with infinity, in the body of a loop that reads tensors from outside."""
    floats = {"two": np.array(2, np.float32), "low": np.array(-np.inf, np.float32)}
    step = helper.make_graph(
        [
            helper.make_node("Where", ["positive", "carried", "low"], ["masked"]),
            helper.make_node("Softmax", ["masked"], ["share"]),
            helper.make_node("Mul", ["share", "weight"], ["next"]),
        ],
        "step",
        [
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("row", TensorProto.FLOAT, None),
        ],
        [helper.make_tensor_value_info("next", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "matrix"], ["product"], name="product"),
        helper.make_node("Add", ["product", "two"], ["moved"], name="moved"),
        helper.make_node("Greater", ["moved", "two"], ["positive"], name="positive"),
        helper.make_node("Cast", ["positive"], ["weight"], to=TensorProto.FLOAT, name="weight"),
        helper.make_node("Scan", ["moved", "rows"], ["y"], num_scan_inputs=1, body=step, name="loop"),
    ]
    rng = np.random.default_rng(1)
    weights = floats | {name: rng.standard_normal((5, 5)).astype(np.float32) for name in ("matrix", "rows")}
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("precision", ["FP16", "INT8"])
def test_loops_masks_and_added_constants_have_a_lower_form(tmp_path: Path, precision: Precision) -> None:
    source, made = write_masked(tmp_path / "source.onnx"), tmp_path / "model.onnx"
    rows = {"x": RNG.standard_normal((8, 5)).astype(np.float32) + 3}
    if precision == "FP16":
        assert halve(source, made, rows) == ()  # infinity is one of its numbers
    else:
        quantize(source, made, iter([rows]), target="tensorrt")
        assert not any("two" in node.input for node in onnx.load(made).graph.node if node.op_type == "QuantizeLinear")
    shown, _, _ = check_lowered(*as_written(source, made), rows, BATCH, precision)
    assert shown.max_error < 0.2


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU: TensorRT is chosen instead")
@pytest.mark.parametrize("precision", ["FP16", "INT8"])
def test_tensorrt_rtx_takes_both(tmp_path: Path, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    source, made = write_model(tmp_path / "source.onnx"), tmp_path / "model.onnx"
    if precision == "FP16":
        halve(source, made, {"x": SAMPLES[:8]})
    else:
        quantize(source, made, in_batches(), target="tensorrt")
    assert build(made, [IMAGE], BATCH, compute_capabilities=["8.9"]).precision == precision
