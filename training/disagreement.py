"""Where two forms of a model part: the first tensor, in the order the graph computes them, that differs too much.

A gate says that outputs differ. What a person needs to know is at which node, and from which line of the network that
node came: there is the operator that overflows in half precision, or that a converter got wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor, nn

from contract.agreement import scaled
from contract.origin import module_of, origin_of
from contract.schema import TensorSpec
from contract.tensor import Tensors
from training.forward import predict
from training.tap import Nodes, run_tapped


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """The tensor, and the node that gives it; `error` is contract.agreement's, infinite for NaN or another shape."""

    tensor: str
    node: str
    operator: str
    origin: str | None
    error: float

    def __str__(self) -> str:
        """One clause of a sentence."""
        origin = f", from {self.origin}" if self.origin else ""
        return f"the first tensor that disagrees is {self.tensor!r} of {self.node} ({self.operator}{origin}), " + (
            f"by {self.error:.1e}" if np.isfinite(self.error) else "which holds NaN, infinity or another shape"
        )


def between_graphs(reference: Path, candidate: Path, inputs: Tensors, tolerance: float) -> Disagreement | None:
    """The first of the tensors that both graphs name; the graphs' node and origin are the reference's.

    None where none of them differs by more than the tolerance.
    """
    nodes, expected = run_tapped(reference, inputs)
    _, got = run_tapped(candidate, inputs)
    return _first(nodes, expected, got, tolerance)


def between_network_and_graph(
    network: nn.Module,
    graph: Path,
    inputs: Tensors,
    input_specs: Sequence[TensorSpec],
    output_specs: Sequence[TensorSpec],
    tolerance: float,
) -> Disagreement | None:
    """The first module whose output isn't that of the last node the exporter says came from it.

    None where the graph doesn't record where its nodes came from, or where no module differs.
    """
    nodes, got = run_tapped(graph, inputs)
    # The last node of a module gives the module's output: those after it came from another one.
    last = {module_of(origin_of(node) or ""): name for name, node in nodes.items() if name in got}
    modules = {name: module for name, module in network.named_modules() if name and name in last}
    expected = _outputs_of(modules, lambda: predict(network, inputs, input_specs, output_specs))
    return _first(nodes, {last[name]: array for name, array in expected.items()}, got, tolerance)


def _outputs_of(modules: Mapping[str, nn.Module], run: Callable[[], object]) -> dict[str, NDArray[Any]]:
    """What each module that gives one tensor gave while `run` ran, the last time it was called."""
    outputs: dict[str, NDArray[Any]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: object, output: object) -> None:
            if isinstance(output, Tensor):
                outputs[name] = output.detach().cpu().numpy()

        return hook

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(keep(name)).remove)
        run()
    return outputs


def _first(nodes: Nodes, expected: Tensors, got: Tensors, tolerance: float) -> Disagreement | None:
    for tensor in (name for name in nodes if name in expected and name in got):
        error = _error(expected[tensor], got[tensor])
        if error > tolerance or error == np.inf:
            return _described(tensor, nodes[tensor], error)
    return None


def _error(expected: NDArray[Any], got: NDArray[Any]) -> float:
    if expected.shape != got.shape:
        return float("inf")
    if expected.dtype.kind == "f" and not np.isfinite(got).all() and np.isfinite(expected).all():
        return float("inf")
    return scaled(np.nan_to_num(expected), np.nan_to_num(got))


def _described(tensor: str, node: onnx.NodeProto, error: float) -> Disagreement:
    return Disagreement(
        tensor=tensor,
        node=node.name or "a node without name",
        operator=node.op_type,
        origin=origin_of(node),
        error=error,
    )
