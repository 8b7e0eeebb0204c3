from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from contract.schema import AxisRange, Evaluation, Metric, TensorSpec
from training.error import ParityFailed
from training.evaluation import averaged, counted
from training.parity import Graph, batches, check_loss, check_lowered, check_metrics

BATCH = AxisRange(min=2, opt=4, max=8)
OUTPUT = TensorSpec(name="y", datatype="FP32", shape=(4,))
X: NDArray[np.float32] = np.linspace(-3, 3, 44, dtype=np.float32).reshape(11, 4)


def write_scaled(path: Path, factor: float, *, batched: bool = True) -> Path:
    """y = x * factor."""
    shape: list[str | int | None] = ["batch", 4] if batched else [4]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"], name="scale")],
        "scaled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.array(factor, np.float32), "factor")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return Graph(write_scaled(tmp_path / "graph.onnx", 1.0), [OUTPUT])


def test_a_precision_is_held_to_its_own_tolerance(graph: Graph, tmp_path: Path) -> None:
    lowered = Graph(write_scaled(tmp_path / "lowered.onnx", 1.001), [OUTPUT])
    shown, expected, got = check_lowered(graph, lowered, {"x": X}, BATCH, "FP16")
    assert shown.batch_sizes == (1, 2, 4, 8)
    assert shown.num_samples == 11
    assert shown.max_error == pytest.approx(1e-3, rel=1e-2)
    np.testing.assert_array_equal(expected["y"], X)
    np.testing.assert_allclose(got["y"], X * 1.001, rtol=1e-6)
    message = r"expected the FP32 graph within 0\.0001 of the FP32 graph, got an error of 1\.00e-03; the first tensor"
    with pytest.raises(ParityFailed, match=message):
        check_lowered(graph, lowered, {"x": X}, BATCH, "FP32")
    worse = Graph(write_scaled(tmp_path / "worse.onnx", 1.4), [OUTPUT])
    assert check_lowered(graph, worse, {"x": X}, BATCH, "INT8")[0].max_error > 0.3


def test_nan_passes_for_no_precision(graph: Graph, tmp_path: Path) -> None:
    lowered = Graph(write_scaled(tmp_path / "lowered.onnx", np.nan), [OUTPUT])
    with pytest.raises(ParityFailed, match=r"the INT8 graph answers NaN or infinity; the first tensor .*'y' of scale"):
        check_lowered(graph, lowered, {"x": X}, BATCH, "INT8")


def test_a_graph_without_a_batch_axis_is_asked_sample_by_sample(tmp_path: Path) -> None:
    one, two = (
        Graph(write_scaled(tmp_path / f"{factor}.onnx", factor, batched=False), [OUTPUT], batched=False)
        for factor in (1.0, 1.001)
    )
    shown, expected, _ = check_lowered(one, two, {"x": X}, None, "FP16")
    assert shown.batch_sizes == (1,)
    np.testing.assert_array_equal(expected["y"], X)
    assert [batch["x"].shape for batch in batches({"x": X}, 8, batched=False)] == [(4,)] * 11
    assert [batch["x"].shape for batch in batches({"x": X}, 8)] == [(8, 4), (3, 4)]


def test_at_most_one_point_of_the_metric_may_be_lost() -> None:
    def accuracy(num_hits: int) -> NDArray[np.bool_]:
        return np.arange(1000) < num_hits

    before = counted("accuracy", accuracy(900))
    assert check_loss(before, counted("accuracy", accuracy(890))) == pytest.approx(0.01)
    assert check_loss(before, counted("accuracy", accuracy(950))) == pytest.approx(-0.05)
    with pytest.raises(ParityFailed, match=r"accuracy is 0\.9000 for the FP32 graph and 0\.8890 for the lowered one"):
        check_loss(before, counted("accuracy", accuracy(889)))


def test_for_an_error_less_is_better_and_a_large_one_may_grow_by_one_per_cent() -> None:
    before, after = (averaged("error", np.full(3, value), larger_is_better=False) for value in (200.0, 201.9))
    assert check_loss(before, after) == pytest.approx(1.9)
    assert check_loss(after, before) == pytest.approx(-1.9)
    with pytest.raises(ParityFailed):
        check_loss(before, averaged("error", np.full(3, 202.1), larger_is_better=False))


@pytest.mark.parametrize(
    ("value", "num_samples", "within", "beyond"),
    [
        (0.9, 491, 2 / 491, 3 / 491),  # one word of the voice's, or two, on the edge between two labels
        (0.9, 10_000, 10 / 10_000, 11 / 10_000),
        (30.0, 500, 30 * 2 / 500, 30 * 3 / 500),  # BLEU
        (250.0, 10_000, 0.25, 0.26),
    ],
)
def test_a_graphs_metric_may_be_off_by_a_thousandth_or_by_two_samples(
    value: float, num_samples: int, within: float, beyond: float
) -> None:
    def evaluation(value: float) -> Evaluation:
        metric = Metric(name="m", value=value, low=value, high=value, num_samples=num_samples)
        return Evaluation(dataset="d", split="test", metrics=(metric,))

    for sign in (-1, 1):
        check_metrics(evaluation(value), evaluation(value + sign * within), ["m"])
        with pytest.raises(ParityFailed, match=r"m is .* for the trained network .*; at most 0\.\d+ may lie between"):
            check_metrics(evaluation(value), evaluation(value + sign * beyond), ["m"])
