from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from contract.schema import AxisRange, TensorSpec
from training.error import ExportFailed, ParityFailed
from training.evaluation import evaluate
from training.export import OPSET, export
from training.forward import predict
from training.gate import Gate
from training.parity import Graph, check, check_metrics

BATCH = AxisRange(min=1, opt=4, max=8)


class TextNetwork(nn.Module):
    """Ids and mask `[N, L]` to the mean embedding `[N, 3]`, and the states `[N, L, 3]`."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 3)

    def forward(self, ids_NL: Tensor, mask_NL: Tensor) -> tuple[Tensor, Tensor]:
        state_NLD = self.embedding(ids_NL) * mask_NL[..., None]
        return state_NLD.sum(1) / mask_NL.sum(1, keepdim=True).clamp(min=1), state_NLD


def test_the_graph_takes_raw_pixels_at_any_batch_and_answers_what_torch_answers(
    tmp_path: Path, tiny: SimpleNamespace
) -> None:
    network, path = tiny.network(), tmp_path / "model.onnx"
    export(network, [tiny.INPUT], [tiny.OUTPUT], BATCH, path)
    model = onnx.load(path)
    assert [opset.version for opset in model.opset_import] == [OPSET]
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert not any(node.doc_string for node in model.graph.node)
    origins = [entry.value for node in model.graph.node for entry in node.metadata_props]
    assert any("network/residual.py:" in origin for origin in origins)
    assert not any(str(Path.cwd()) in origin for origin in origins)

    inputs = tiny.load().test.inputs
    graph = Graph(path, [tiny.OUTPUT])
    shown, outputs = check(network, graph, inputs, [tiny.INPUT], [tiny.OUTPUT], BATCH)
    assert shown.batch_sizes == (1, 4, 8)
    assert shown.num_samples == 96
    whole = predict(network, inputs, [tiny.INPUT], [tiny.OUTPUT])["logits"]
    assert np.abs(outputs["logits"] - whole).max() <= shown.max_error < 1e-5
    np.testing.assert_allclose(graph.run_all(inputs, 7)["logits"], whole, atol=1e-5)


def test_a_network_that_fixes_the_number_of_samples_is_refused(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first_D = nn.Parameter(torch.zeros(1))

        def forward(self, x_ND: Tensor) -> Tensor:
            return torch.cat((self.first_D.expand(len(x_ND), 1), x_ND), dim=1)

    inputs, outputs = ([TensorSpec(name=n, datatype="FP32", shape=(size,))] for n, size in (("x", 2), ("y", 3)))
    with pytest.raises(ExportFailed, match=r"tensor 'x' has 4 of them: use x\.shape\[0\]"):
        export(Fixed(), inputs, outputs, BATCH, tmp_path / "model.onnx")


def test_the_same_weights_are_the_same_file(tmp_path: Path, tiny: SimpleNamespace) -> None:
    network = tiny.network()
    for name in ("a", "b"):
        export(network, [tiny.INPUT], [tiny.OUTPUT], BATCH, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_dynamic_axes_inputs_and_outputs_are_as_many_as_the_contract_says(tmp_path: Path) -> None:
    length = AxisRange(min=1, opt=6, max=12)
    inputs = [TensorSpec(name=n, datatype="INT64", shape=(-1,), ranges=(length,)) for n in ("ids", "mask")]
    outputs = [
        TensorSpec(name="mean", datatype="FP32", shape=(3,)),
        TensorSpec(name="states", datatype="FP32", shape=(-1, 3)),
    ]
    network = TextNetwork()
    export(network, inputs, outputs, BATCH, tmp_path / "model.onnx")
    graph = Graph(tmp_path / "model.onnx", outputs)
    for size in (1, 5, 12):
        ids = np.arange(3 * size).reshape(3, size) % 10
        shown, _ = check(network, graph, {"ids": ids, "mask": ids % 2}, inputs, outputs, BATCH)
        assert shown.max_error < 1e-6


def test_an_output_may_be_called_as_a_layer_is(tmp_path: Path) -> None:
    network, path = TextNetwork(), tmp_path / "model.onnx"
    inputs = [TensorSpec(name=name, datatype="INT64", shape=(4,)) for name in ("ids", "mask")]
    outputs = [
        TensorSpec(name="embedding", datatype="FP32", shape=(3,)),
        TensorSpec(name="states", datatype="FP32", shape=(4, 3)),
    ]
    export(network, inputs, outputs, BATCH, path)
    arrays = {"ids": np.array([[1, 2, 3, 4], [5, 6, 7, 8]]), "mask": np.ones((2, 4), np.int64)}
    whole = predict(network, arrays, inputs, outputs)
    np.testing.assert_allclose(Graph(path, outputs).run(arrays)["embedding"], whole["embedding"], atol=1e-6)


def test_a_contract_that_is_not_the_networks_is_refused(tmp_path: Path, tiny: SimpleNamespace) -> None:
    wrong = TensorSpec(name="logits", datatype="FP32", shape=(4,))
    with pytest.raises(ExportFailed, match="make recipe and network agree"):
        export(tiny.network(), [tiny.INPUT], [wrong], BATCH, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_network_that_has_no_graph_is_one_sentence(tmp_path: Path, tiny: SimpleNamespace) -> None:
    class Stubborn(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.from_numpy(np.zeros((len(image), 3), np.float32)) if image.sum().item() else image

    with pytest.raises(ExportFailed, match="no valid ONNX form") as caught:
        export(Stubborn(), [tiny.INPUT], [tiny.OUTPUT], BATCH, tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)


def test_other_weights_do_not_pass_for_the_same(tmp_path: Path, tiny: SimpleNamespace) -> None:
    export(tiny.network(), [tiny.INPUT], [tiny.OUTPUT], BATCH, tmp_path / "model.onnx")
    graph, inputs = Graph(tmp_path / "model.onnx", [tiny.OUTPUT]), tiny.load().test.inputs
    other = tiny.network()
    with pytest.raises(ParityFailed, match=r"within 0\.0001 of the trained network, got an error of"):
        check(other, graph, inputs, [tiny.INPUT], [tiny.OUTPUT], BATCH)
    with torch.no_grad():
        other.head.bias.fill_(float("nan"))
    with pytest.raises(ParityFailed, match="the trained network answers NaN"):
        check(other, graph, inputs, [tiny.INPUT], [tiny.OUTPUT], BATCH)


def test_the_whole_data_is_compared_not_only_its_first_batch(tmp_path: Path) -> None:
    """A graph that errs on the last sample only: a table of answers, one of them off."""
    spec = TensorSpec(name="index", datatype="INT64", shape=(1,))
    output = TensorSpec(name="answer", datatype="FP32", shape=(1,))
    embedding = nn.Embedding(20, 1)
    table = nn.Sequential(embedding, nn.Flatten())
    export(table, [spec], [output], BATCH, tmp_path / "model.onnx")
    with torch.no_grad():
        embedding.weight[19] += 1
    inputs = {"index": np.arange(20)[:, None]}
    with pytest.raises(ParityFailed, match="got an error of"):
        check(table, Graph(tmp_path / "model.onnx", [output]), inputs, [spec], [output], BATCH)


def test_another_quality_does_not_pass_for_the_same(tiny: SimpleNamespace) -> None:
    targets = np.arange(30) % 3
    logits = np.eye(3)[targets]
    evaluations = [
        evaluate("d", "test", tiny.RECIPE.postprocess, {"logits": outputs}, targets)
        for outputs in (logits, np.roll(logits, 1, axis=1))
    ]
    gates = [Gate(metric="accuracy", at_least=0.5)]
    check_metrics(evaluations[0], evaluations[0], [gate.metric for gate in gates])
    with pytest.raises(ParityFailed, match=r"accuracy is 1\.0000 for the trained network and 0\.0000"):
        check_metrics(evaluations[0], evaluations[1], [gate.metric for gate in gates])
