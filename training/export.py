"""The trained network as an ONNX graph: what every runtime loads and every engine is compiled from.

The network takes the contract's inputs as they come over the wire, so its arithmetic on them (scaling, mean and
deviation, layout) is in the graph. Every axis that the contract calls dynamic is dynamic in the graph, and no other.
Source: https://docs.pytorch.org/docs/stable/onnx_export.html
"""

import logging
import warnings
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from torch.export import Dim

from contract.origin import ORIGIN_KEY, origin_of
from contract.schema import AxisRange, TensorSpec
from contract.tensor import DTYPES
from training.error import ExportFailed

ONNX_FILE = "model.onnx"
# What dynamo writes without converting, and what both TensorRT 10 and 11 parse.
OPSET = 18

# torch.export calls it an error that it can't describe its own loop over a recurrent layer; whatever really is one is
# raised.
_QUIET_AT = {"torch.onnx": logging.ERROR, "torch.export": logging.CRITICAL}


def export(
    network: nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    batch: AxisRange,
    path: Path,
) -> None:
    """Write the graph, weights inside, and check it; the network is left in evaluation mode on the CPU.

    Raises ExportFailed when torch can't express the network as a graph, or when the graph's tensors aren't the
    contract's.
    """
    network = network.cpu().eval()
    network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    try:
        with _quiet(), torch.no_grad():  # a loop with weights that could learn has no graph
            program = torch.onnx.export(
                network,
                tuple(_example(spec, batch) for spec in inputs),
                dynamo=True,
                input_names=[spec.name for spec in inputs],
                output_names=[spec.name for spec in outputs],
                dynamic_shapes=tuple(_dynamic_axes(spec, batch) for spec in inputs),
                opset_version=OPSET,
                verbose=False,
            )
        assert program is not None
        _free_names(program.model, {spec.name for spec in outputs})
        model = program.model_proto
        _shorten_origin(model)
        onnx.checker.check_model(model, full_check=True)
    except (
        torch.onnx.errors.OnnxExporterError,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as exc:
        raise ExportFailed(f"the network has no valid ONNX form: {_first_line(exc)}") from exc
    _check_tensors("input", model.graph.input, inputs)
    _check_tensors("output", model.graph.output, outputs)
    if batch.max > 1:
        _check_batch_axis((*model.graph.input, *model.graph.output))
    path.write_bytes(model.SerializeToString(deterministic=True))


def _example(spec: TensorSpec, batch: AxisRange) -> torch.Tensor:
    """Zeros of a typical shape; at least 2 along a dynamic axis, for torch takes a length of 1 for a fixed one."""
    shape = (max(axis.opt, min(2, axis.max)) for axis in (batch, *spec.bounds()))
    return torch.zeros(tuple(shape), dtype=_torch_dtype(spec))


def _torch_dtype(spec: TensorSpec) -> torch.dtype:
    if spec.datatype in ("BYTES", "BF16"):
        raise ExportFailed(f"input {spec.name!r}: {spec.datatype} tensors can't be exported")
    return torch.from_numpy(np.empty(0, DTYPES[spec.datatype])).dtype


def _dynamic_axes(spec: TensorSpec, batch: AxisRange) -> dict[int, Any]:
    """The batch axis by name, so that inputs share it; how others depend on each other is for torch to find."""
    axes: dict[int, Any] = {i + 1: Dim.DYNAMIC for i, axis in enumerate(spec.shape) if axis == -1}
    if batch.max > 1:
        axes[0] = Dim("batch", min=1, max=batch.max)
    return axes


def _free_names(model: Any, names: Set[str]) -> None:
    """Call values inside the graph otherwise than its outputs, as in a network whose layer has an output's name."""
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.name in names and not value.is_graph_output():
                value.name = f"{value.name}_inside"


def _check_tensors(kind: str, values: Any, specs: Sequence[TensorSpec]) -> None:
    """Hold names, datatypes and shapes of the graph against the contract's."""
    found = []
    for value in values:
        tensor = value.type.tensor_type
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        found.append((value.name, str(dtype), shape[1:]))
    expected = [(spec.name, str(DTYPES[spec.datatype]), spec.shape) for spec in specs]
    if found != expected:
        raise ExportFailed(f"expected the graph's {kind}s {expected}, got {found}: make recipe and network agree")


def _check_batch_axis(values: Any) -> None:
    """Hold that any number of samples fits: torch leaves a fixed one where the network took it for a Python number."""
    for value in values:
        first = value.type.tensor_type.shape.dim[0]
        if first.HasField("dim_value"):
            raise ExportFailed(
                f"expected the graph to take any number of samples, and tensor {value.name!r} has {first.dim_value} of "
                "them: use x.shape[0] in the network where it says len(x) or int(...)"
            )


def _shorten_origin(model: onnx.ModelProto) -> None:
    """Drop torch's notes on every node, which name this machine's files, for the short form of where it comes from."""
    del model.metadata_props[:]
    for graph in _graphs(model.graph):
        origins = [origin_of(node) for node in graph.node]
        for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph):
            del part.metadata_props[:]
            part.doc_string = ""
        for node, origin in zip(graph.node, origins, strict=True):
            if origin:
                node.metadata_props.add(key=ORIGIN_KEY, value=origin)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph, and those of the loops in it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _first_line(exc: Exception) -> str:
    cause = exc.__cause__ or exc
    return f"{str(cause).strip().splitlines()[0]:.200}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that aren't needed here."""
    levels = {logging.getLogger(name): level for name, level in _QUIET_AT.items()}
    before = {logger: logger.level for logger in levels}
    for logger, level in levels.items():
        logger.setLevel(level)
    try:
        with warnings.catch_warnings():
            # torch 2.13 copies its own deprecated tree type; nothing a caller could do.
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
            # Two inputs that share an axis share its name, which is what was asked for.
            warnings.filterwarnings("ignore", message=r"# The axis name: \S+ will not be used", category=UserWarning)
            # Recurrent layers are traced by a loop of torch's own; the graph gets ONNX's own operators for them.
            warnings.filterwarnings("ignore", message=r"_check_is_size will be removed", category=FutureWarning)
            warnings.filterwarnings("ignore", message=r"The \.grad attribute of a Tensor", category=UserWarning)
            warnings.filterwarnings("ignore", message=r"The tensor attributes? .*_flat_weights", category=UserWarning)
            yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
