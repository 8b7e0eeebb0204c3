import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from contract.schema import AxisRange
from training.disagreement import between_graphs, between_network_and_graph
from training.error import ParityFailed
from training.parity import Graph, check
from training.tap import run_tapped

X = {"x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)}


def write_chain(path: Path, factor: float = 2.0, origin: str = "") -> Path:
    """`x` `[N, 4]`: first = x + 1, second = first * factor, y = relu(second)."""
    nodes = [
        helper.make_node("Add", ["x", "one"], ["first"], name="add"),
        helper.make_node("Mul", ["first", "factor"], ["second"], name="mul", doc_string=origin),
        helper.make_node("Relu", ["second"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [
            numpy_helper.from_array(np.array(1, np.float32), "one"),
            numpy_helper.from_array(np.array(factor, np.float32), "factor"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_every_tensor_of_a_graph_is_seen_in_its_order(tmp_path: Path) -> None:
    nodes, values = run_tapped(write_chain(tmp_path / "a.onnx"), X)
    assert list(nodes) == list(values) == ["first", "second", "y"]
    np.testing.assert_allclose(values["second"], 2 * (X["x"] + 1))


def test_the_first_tensor_that_disagrees_is_named_with_its_line(tmp_path: Path) -> None:
    good = write_chain(tmp_path / "good.onnx", origin='File "/home/me/net/model.py", line 12, in forward')
    found = between_graphs(good, write_chain(tmp_path / "bad.onnx", factor=2.5), X, tolerance=1e-3)
    assert found is not None
    assert (found.tensor, found.node, found.operator, found.origin) == ("second", "mul", "Mul", "net/model.py:12")
    assert found.error == pytest.approx(1 / 4)
    assert str(found) == ("the first tensor that disagrees is 'second' of mul (Mul, from net/model.py:12), by 2.5e-01")


def test_graphs_that_agree_have_none(tmp_path: Path) -> None:
    good = write_chain(tmp_path / "good.onnx")
    assert between_graphs(good, write_chain(tmp_path / "near.onnx", factor=2.0001), X, tolerance=1e-3) is None


def test_infinity_disagrees_whatever_the_tolerance(tmp_path: Path) -> None:
    good = write_chain(tmp_path / "good.onnx")
    found = between_graphs(good, write_chain(tmp_path / "bad.onnx", factor=np.inf), X, tolerance=1e9)
    assert found is not None
    assert str(found).endswith("'second' of mul (Mul), which holds NaN, infinity or another shape")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny: SimpleNamespace) -> SimpleNamespace:
    """A network, and its graph with the notes that torch's exporter makes."""
    network, path = tiny.network().eval(), tmp_path_factory.mktemp("exported") / "model.onnx"
    batch = torch.export.Dim("batch", min=1, max=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (torch.zeros(4, tiny.SIDE_PX, tiny.SIDE_PX, 1, dtype=torch.uint8),),
            dynamo=True,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    assert program is not None
    program.save(path)
    return SimpleNamespace(network=network, path=path)


@pytest.fixture
def search(exported: SimpleNamespace, tiny: SimpleNamespace) -> Callable[[], object]:
    few = {name: array[:4] for name, array in tiny.load().test.inputs.items()}
    specs = [tiny.INPUT], [tiny.OUTPUT]
    return lambda: between_network_and_graph(exported.network, exported.path, few, *specs, tolerance=1e-4)


def test_the_module_that_disagrees_is_named(
    exported: SimpleNamespace, search: Callable[[], object], tiny: SimpleNamespace
) -> None:
    assert search() is None
    norm = exported.network.get_submodule("blocks.0.body.4")
    norm.bias.data += 1
    try:
        assert "from blocks.0.body.4 (network/residual.py:" in str(search())
        graph = Graph(exported.path, [tiny.OUTPUT])
        batch = AxisRange(min=1, opt=4, max=8)
        with pytest.raises(ParityFailed, match=r"got an error of .*; the first tensor that disagrees is .*blocks\.0"):
            check(exported.network, graph, tiny.load().test.inputs, [tiny.INPUT], [tiny.OUTPUT], batch)
    finally:
        norm.bias.data -= 1
