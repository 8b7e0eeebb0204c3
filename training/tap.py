"""Every intermediate tensor of a graph, as one run gives them: where numbers leave a range, or two graphs part."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from contract.tensor import Tensors

Nodes = Mapping[str, onnx.NodeProto]


def tapped(path: Path) -> tuple[Nodes, ort.InferenceSession]:
    """The graph's nodes by the tensor each gives, in their order, and a session that has all those tensors as outputs.

    So it computes the graph as it is written. ONNX Runtime on a CPU otherwise computes an FP16 graph in FP32 from node
    to node, whatever its optimization level, and shows neither its rounding nor its overflows.
    """
    model = onnx.load(path)
    nodes = {name: node for node in model.graph.node for name in node.output if name}
    named = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in nodes if name not in named)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return nodes, ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_tapped(path: Path, inputs: Tensors) -> tuple[Nodes, dict[str, NDArray[Any]]]:
    """The graph's nodes as `tapped` gives them, and every tensor of the main graph for one batch; no sequences."""
    nodes, session = tapped(path)
    names = [output.name for output in session.get_outputs()]
    values = dict(zip(names, session.run(names, dict(inputs)), strict=True))
    return nodes, {name: values[name] for name in nodes if isinstance(values.get(name), np.ndarray)}
