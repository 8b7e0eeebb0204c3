"""Every recipe's network, lowered to every precision, through this machine's engine builder; untrained, to be quick.

Engines of FP32 graphs are built where each recipe is taken down the whole line.
"""

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
# Networks for spam are those for sentiment, for longer texts: the plain one's engines take minutes to build.
RECIPES = [name for name in recipes.names() if not name.startswith("spam-")]


def builds() -> bool:
    try:
        find_builder()
    except EngineUnavailable:
        return False
    return True


@pytest.mark.skipif(not builds(), reason="neither TensorRT with a GPU nor tensorrt-rtx-cu13 is here")
@pytest.mark.parametrize("name", RECIPES)
def test_lower_precisions_compile(tmp_path: Path, name: str, record_property: Callable[[str, object], None]) -> None:
    recipe = recipes.find(name)
    inputs = recipe.load(None).test.take(slice(NUM_SAMPLES)).inputs
    source = tmp_path / "source.onnx"
    export(recipe.network(), recipe.inputs, recipe.outputs, recipe.batch, source)
    lowered: dict[Precision, Callable[[Path], object]] = {
        "FP16": lambda path: halve(source, path, inputs),
        "INT8": lambda path: quantize(source, path, batches(inputs, recipe.batch.opt), target="tensorrt"),
    }
    for precision, make in lowered.items():
        graph = tmp_path / precision / "model.onnx"
        graph.parent.mkdir()
        make(graph)
        made = Graph(graph, recipe.outputs, as_written=precision == "FP16")
        check_lowered(Graph(source, recipe.outputs), made, inputs, recipe.batch, precision, recipe.postprocess)
        passport = build(graph, recipe.inputs, recipe.batch)
        assert passport.precision == precision
        record_property("engine", f"{passport.builder} {passport.builder_version} for {passport.targets}")
