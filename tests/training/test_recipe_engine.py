"""The graph of every recipe, at every precision, through the engine builder of this machine; untrained, to be quick."""

from collections.abc import Callable
from pathlib import Path

import pytest

from contract.agreement import Precision
from serving.builder import find_builder
from serving.compilation import build
from serving.error import EngineUnavailable
from training import recipe as recipes
from training.export import export
from training.half import halve
from training.parity import Graph, batches, check_lowered
from training.quantization import quantize

NUM_SAMPLES = 32


def builds() -> bool:
    try:
        find_builder()
    except EngineUnavailable:
        return False
    return True


@pytest.mark.skipif(not builds(), reason="neither TensorRT with a GPU nor tensorrt-rtx-cu13 is here")
@pytest.mark.parametrize("name", recipes.names())
def test_every_precision_compiles(tmp_path: Path, name: str, record_property: Callable[[str, object], None]) -> None:
    recipe = recipes.find(name)
    inputs = recipe.load(None).test.take(slice(NUM_SAMPLES)).inputs
    source = tmp_path / "source.onnx"
    export(recipe.network(), recipe.inputs, recipe.outputs, recipe.batch, source)
    lowered: dict[Precision, Callable[[Path], object]] = {
        "FP32": lambda path: path.write_bytes(source.read_bytes()),
        "FP16": lambda path: halve(source, path, inputs),
        "INT8": lambda path: quantize(source, path, batches(inputs, recipe.batch.opt), target="tensorrt"),
    }
    for precision, make in lowered.items():
        graph = tmp_path / precision / "model.onnx"
        graph.parent.mkdir()
        make(graph)
        made = Graph(graph, recipe.outputs, as_written=precision == "FP16")
        check_lowered(Graph(source, recipe.outputs), made, inputs, recipe.batch, precision)
        passport = build(graph, recipe.inputs, recipe.batch)
        assert passport.precision == precision
        record_property("engine", f"{passport.builder} {passport.builder_version} for {passport.targets}")
