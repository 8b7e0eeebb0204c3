"""Running a network over many samples, in inference mode and in batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contract.schema import TensorSpec
from contract.tensor import Tensors

BATCH_SIZE = 500  # two cores are busy from about 100; ten times that gains nothing and costs memory


def as_tuple(outputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """A network's outputs in the contract's order, however many there are."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def tensors_of(inputs: Tensors, specs: Sequence[TensorSpec]) -> tuple[Tensor, ...]:
    """Input tensors in the contract's order, sharing memory with the arrays where those may be written to."""
    return tuple(torch.from_numpy(np.require(inputs[spec.name], requirements=["C", "W"])) for spec in specs)


def predict(
    network: nn.Module,
    inputs: Tensors,
    input_specs: Sequence[TensorSpec],
    output_specs: Sequence[TensorSpec],
    *,
    batch_size: int = BATCH_SIZE,
) -> dict[str, NDArray[Any]]:
    """The network's outputs `[M, ...]` by name for M samples; the network is left in evaluation mode."""
    network.eval()
    device = next(network.parameters()).device
    tensors = tensors_of(inputs, input_specs)
    parts: list[tuple[NDArray[Any], ...]] = []
    with torch.inference_mode():
        for start in range(0, len(tensors[0]), batch_size):
            batch = (tensor[start : start + batch_size].to(device) for tensor in tensors)
            parts.append(tuple(output.cpu().numpy() for output in as_tuple(network(*batch))))
    return {
        spec.name: np.concatenate(pieces) for spec, pieces in zip(output_specs, zip(*parts, strict=True), strict=True)
    }
