"""Inputs and outputs without any axis get one: Triton serves no scalar of a model without a batch axis.

The names stay; in the graph a scalar is called by another, and a reshape leads from one to the other.
"""

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from training.importer.file import parts

_SHAPES = {"tidegate.scalar": (), "tidegate.element": (1,)}


def as_elements(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, its scalars as tensors of one element; the model itself where it has none."""
    inputs, outputs = (_scalars(values) for values in (model.graph.input, model.graph.output))
    if not inputs and not outputs:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    _rename(graph, {name: f"{name}.scalar" for name in inputs | outputs})
    for name, shape in _SHAPES.items():
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
    to_scalar, to_element = _SHAPES
    before = [helper.make_node("Reshape", [name, to_scalar], [f"{name}.scalar"]) for name in sorted(inputs)]
    after = [helper.make_node("Reshape", [f"{name}.scalar", to_element], [name]) for name in sorted(outputs)]
    between = list(graph.node)
    del graph.node[:]
    graph.node.extend([*before, *between, *after])
    for value in (*graph.input, *graph.output):
        if value.name in inputs | outputs:
            value.type.tensor_type.shape.dim.add(dim_value=1)
    return changed


def _scalars(values: Iterable[onnx.ValueInfoProto]) -> set[str]:
    tensors = [value for value in values if value.type.HasField("tensor_type")]
    return {v.name for v in tensors if v.type.tensor_type.HasField("shape") and not v.type.tensor_type.shape.dim}


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename values wherever they are made or used, in branches too: a name means one thing in a whole graph."""
    for node in parts(graph, onnx.NodeProto):
        for used in (node.input, node.output):
            for index, name in enumerate(used):
                used[index] = names.get(name, name)
