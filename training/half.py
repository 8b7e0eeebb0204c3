"""A graph in half precision, for TensorRT: precision is in the graph, since builders take no flag for it any more.

ONNX Runtime's converter does it. NVIDIA's AutoCast (nvidia-modelopt 0.47) was tried beside it on the residual network:
it made as many conversions with the same largest error, and asks for six more packages and an older onnx. What
AutoCast adds is kept: a node whose tensors leave half precision's range, on real samples, stays in single precision.
Inputs and outputs keep their datatypes, so the contract holds.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from contract.tensor import Tensors
from training.error import ExportFailed
from training.order import in_order
from training.tap import run_tapped

# The converter's names.
_TO_HALF, _TO_SINGLE, _OF_INPUT = "_cast_to_fp16_node", "_cast_to_fp32_node", "graph_input_cast"
_LARGEST = float(np.finfo(np.float16).max) / 2  # other inputs than the samples may reach further


def halve(source: Path, target: Path, inputs: Tensors) -> tuple[str, ...]:
    """Write the graph in FP16; names of the nodes that stay in FP32 because one batch of real inputs says so.

    Raises ExportFailed when the result is no valid graph.
    """
    model = onnx.load(source)
    _name_nodes(model)
    _, values = run_tapped(source, inputs)
    large = {name for name, array in values.items() if _exceeds(array)}
    large |= {weight.name for weight in model.graph.initializer if _exceeds(numpy_helper.to_array(weight))}
    kept = tuple(node.name for node in model.graph.node if large & {*node.input, *node.output})
    try:
        halved = convert_float_to_float16(model, keep_io_types=True, node_block_list=list(kept))
        del halved.graph.value_info[:]  # what the converter says of tensors between nodes isn't always so
        _join_kept(halved.graph)
        halved = in_order(halved)
        onnx.checker.check_model(halved, full_check=True)
    except (ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ExportFailed(f"the graph has no FP16 form: {str(exc).strip().splitlines()[0]:.200}") from exc
    target.write_bytes(halved.SerializeToString(deterministic=True))
    return kept


def _exceeds(array: NDArray[Any]) -> bool:
    """Infinity, a mask's usual value, is one of half precision's numbers; NaN is left to the parity."""
    return array.dtype == np.float32 and bool((np.abs(array[np.isfinite(array)]) > _LARGEST).any())


def _name_nodes(model: onnx.ModelProto) -> None:
    """Nodes are kept in FP32 by name, which an ONNX node may lack."""
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"


def _join_kept(graph: onnx.GraphProto) -> None:
    """Between nodes that stay in FP32 the converter goes through FP16, which the tensor may not fit: go directly."""
    made_by = {output: node for node in graph.node for output in node.output}
    direct = {}
    for node in graph.node:
        before = made_by.get(node.input[0]) if node.op_type == "Cast" and node.name.endswith(_TO_SINGLE) else None
        if before is not None and (before.name.endswith(_TO_HALF) or before.name.startswith(_OF_INPUT)):
            direct[node.output[0]] = before.input[0]
    used = {output.name for output in graph.output}
    for node in _nodes(graph):  # the body of a loop reads what lies around it
        if not direct.keys() & set(node.output):
            node.input[:] = [direct.get(name, name) for name in node.input]
            used.update(node.input)
    kept = [node for node in graph.node if node.op_type != "Cast" or node.output[0] in used]
    del graph.node[:]
    graph.node.extend(kept)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The graph's nodes, and those of the loops and branches in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)
