"""Parity: the exported graph answers what the trained network answers, on real inputs, at the edges of its batches.

The largest absolute error counts, not "absolute or relative": a tolerance that grows with the values hides errors
where they are largest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from torch import nn

from contract.schema import AxisRange, Evaluation, TensorSpec
from contract.tensor import Tensors
from training.error import ParityFailed
from training.forward import predict

FP32_TOLERANCE = 1e-4
METRIC_TOLERANCE = 1e-3  # of a share: ten samples in 10,000, each on the edge between two labels


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """The largest error seen, at which batch sizes, over how many samples."""

    max_error: float
    batch_sizes: tuple[int, ...]
    num_samples: int


class Graph:
    """An ONNX graph in ONNX Runtime on the CPU."""

    def __init__(self, path: Path, outputs: Sequence[TensorSpec]) -> None:
        self._session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._names = [spec.name for spec in outputs]

    def run(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Outputs `[N, ...]` by name of one batch."""
        return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))

    def run_all(self, inputs: Tensors, batch_size: int) -> dict[str, NDArray[Any]]:
        """Outputs `[M, ...]` by name of M samples, run in batches."""
        num_samples = len(next(iter(inputs.values())))
        parts = [
            self.run({name: array[start : start + batch_size] for name, array in inputs.items()})
            for start in range(0, num_samples, batch_size)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._names}


def check(
    network: nn.Module,
    graph: Graph,
    inputs: Tensors,
    input_specs: Sequence[TensorSpec],
    output_specs: Sequence[TensorSpec],
    batch: AxisRange,
    *,
    tolerance: float = FP32_TOLERANCE,
) -> tuple[Parity, dict[str, NDArray[Any]]]:
    """Compare on all the given real inputs, and at batch sizes 1, min, opt and max; also the graph's outputs for all.

    A batch that wants more samples than there are sees some twice. Raises ParityFailed for an error above the
    tolerance, and for NaN or infinity on either side.
    """
    num_samples = len(next(iter(inputs.values())))
    sizes = tuple(sorted({1, batch.min, batch.opt, batch.max}))
    worst = 0.0
    for size in sizes:
        chosen = {name: array[np.arange(size) % num_samples] for name, array in inputs.items()}
        expected = predict(network, chosen, input_specs, output_specs, batch_size=size)
        got = graph.run(chosen)
        worst = max(worst, _error(size, expected, got))
    outputs = graph.run_all(inputs, batch.max)
    worst = max(worst, _error(batch.max, predict(network, inputs, input_specs, output_specs), outputs))
    if worst > tolerance:
        raise ParityFailed(
            f"expected the ONNX graph within {tolerance:g} of the trained network, got an error of {worst:.2e}; "
            "nothing was published"
        )
    return Parity(max_error=worst, batch_sizes=sizes, num_samples=num_samples), outputs


def check_metrics(trained: Evaluation, exported: Evaluation, names: Sequence[str]) -> None:
    """Raise ParityFailed when the graph's quality on the same data isn't the network's."""
    for name in names:
        before, after = trained.metric(name).value, exported.metric(name).value
        if not abs(before - after) <= METRIC_TOLERANCE:
            raise ParityFailed(
                f"{name} is {before:.4f} for the trained network and {after:.4f} for the ONNX graph; "
                "nothing was published"
            )


def _error(size: int, expected: Tensors, got: Tensors) -> float:
    """Largest absolute difference over all outputs; ParityFailed where they can't be compared."""
    return max(_difference(f"output {name!r} at batch {size}", expected[name], got[name]) for name in expected)


def _difference(where: str, expected: NDArray[Any], got: NDArray[Any]) -> float:
    if expected.shape != got.shape:
        raise ParityFailed(f"{where}: expected shape {expected.shape}, got {got.shape}")
    for side, values in (("the trained network", expected), ("the ONNX graph", got)):
        if not np.isfinite(values).all():
            raise ParityFailed(f"{where}: {side} answers NaN or infinity")
    return float(np.abs(expected.astype(np.float64) - got.astype(np.float64)).max())
