"""Parity: an exported graph answers what the trained network answers, and a lowered graph what that one answers.

On real inputs, at the edges of the batch range, by the measure of contract.agreement. When a gate fails, the message
names the first tensor at which the two forms part.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from torch import nn

from contract.agreement import METRIC_TOLERANCE, TOLERANCE, Precision, in_order_of, largest_error
from contract.schema import AxisRange, Evaluation, Postprocess, TensorSpec
from contract.tensor import Tensors
from training.disagreement import Disagreement, between_graphs, between_network_and_graph
from training.error import ParityFailed
from training.evaluation import Measure
from training.forward import predict
from training.tap import tapped

FP32_TOLERANCE = TOLERANCE["FP32"]
EXPORT_METRIC_TOLERANCE = 1e-3  # of a share: ten samples in 10,000, each on the edge between two labels
_NUM_ON_EDGE = 2  # samples that any test split may have there, however small it is
_ROUNDING = 1e-9  # 0.9 - 0.89 is a little more than 0.01
_NUM_SEARCHED = 8  # samples that the search for the first disagreement holds every tensor of


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """The largest error seen, at which batch sizes, over how many samples."""

    max_error: float
    batch_sizes: tuple[int, ...]
    num_samples: int


class Graph:
    """An ONNX graph in ONNX Runtime on the CPU.

    `batched` says whether its tensors have a batch axis, `as_written` that every tensor is rounded as the graph says.
    """

    def __init__(
        self, path: Path, outputs: Sequence[TensorSpec], *, batched: bool = True, as_written: bool = False
    ) -> None:
        self.path = path
        self._batched = batched
        self._session = (
            tapped(path)[1] if as_written else ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        )
        self._names = [spec.name for spec in outputs]

    def run(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Outputs `[N, ...]` by name of one batch, or of one sample as the graph has them."""
        return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))

    def run_all(self, inputs: Tensors, batch_size: int) -> dict[str, NDArray[Any]]:
        """Outputs `[M, ...]` by name of M samples, run in batches."""
        parts = [self.run(batch) for batch in batches(inputs, batch_size, batched=self._batched)]
        joined = np.concatenate if self._batched else np.stack
        return {name: joined([part[name] for part in parts]) for name in self._names}


def batches(inputs: Tensors, batch_size: int, *, batched: bool = True) -> Iterator[dict[str, NDArray[Any]]]:
    """M samples `[M, ...]` as a graph takes them: in batches, or one by one without a batch axis."""
    for start in range(0, len(next(iter(inputs.values()))), batch_size if batched else 1):
        chosen = slice(start, start + batch_size) if batched else start
        yield {name: np.asarray(array[chosen]) for name, array in inputs.items()}


def check(
    network: nn.Module,
    graph: Graph,
    inputs: Tensors,
    input_specs: Sequence[TensorSpec],
    output_specs: Sequence[TensorSpec],
    batch: AxisRange,
    postprocess: Postprocess | None = None,
    *,
    tolerance: float = FP32_TOLERANCE,
) -> tuple[Parity, dict[str, NDArray[Any]]]:
    """Compare on all the given real inputs, and at batch sizes 1, min, opt and max; also the graph's outputs for all.

    A batch that wants more samples than there are sees some twice. Raises ParityFailed for an error above the
    tolerance, and for NaN or infinity on either side.
    """
    sides = "the trained network", "the ONNX graph"
    sizes = tuple(sorted({1, batch.min, batch.opt, batch.max}))
    specs = input_specs, output_specs
    found = _Found(sides)

    def compare(expected: Tensors, got: Tensors) -> None:
        found.compare(expected, got if postprocess is None else in_order_of(expected, got, postprocess))

    for size, chosen in _edges(inputs, sizes):
        compare(predict(network, chosen, *specs, batch_size=size), graph.run(chosen))
    outputs = graph.run_all(inputs, batch.max)
    compare(predict(network, inputs, *specs), outputs)
    few = _take(inputs, _NUM_SEARCHED)
    found.hold(tolerance, lambda: between_network_and_graph(network, graph.path, few, *specs, tolerance))
    return Parity(max_error=found.error, batch_sizes=sizes, num_samples=len(_first(inputs))), outputs


def check_lowered(
    graph: Graph,
    lowered: Graph,
    inputs: Tensors,
    batch: AxisRange | None,
    precision: Precision,
    postprocess: Postprocess | None = None,
) -> tuple[Parity, dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Compare a graph with its form of lower precision; also what both answer to all the inputs `[M, ...]`.

    Raises ParityFailed for an error above the precision's tolerance, and for NaN or infinity. INT8 has no tolerance,
    nor has what a graph with this `postprocess` decides: they are judged by the task's metric.
    """
    sizes = (1,) if batch is None else tuple(sorted({1, batch.min, batch.opt, batch.max}))
    found = _Found(("the FP32 graph", f"the {precision} graph"), postprocess)
    for _, chosen in _edges(inputs, sizes) if batch is not None else ():
        found.compare(graph.run(chosen), lowered.run(chosen))
    expected, got = graph.run_all(inputs, sizes[-1]), lowered.run_all(inputs, sizes[-1])
    found.compare(expected, got)
    few = next(batches(inputs, _NUM_SEARCHED, batched=batch is not None))
    tolerance = TOLERANCE.get(precision, math.inf)
    found.hold(tolerance, lambda: between_graphs(graph.path, lowered.path, few, tolerance))
    return Parity(max_error=found.error, batch_sizes=sizes, num_samples=len(_first(inputs))), expected, got


def check_metrics(trained: Evaluation, exported: Evaluation, names: Sequence[str]) -> None:
    """Raise ParityFailed when the graph's quality on the same data isn't the network's.

    `check` holds the outputs to each other; this, what is made of them. The smallest rounding turns a sample that lies
    on an edge, and of 500 samples that is a share of 0.002 already. So the tolerance is a thousandth, or what two of
    the metric's samples come to where that is more; of a metric above 1, as BLEU from 0 to 100, the same of its value:
    as much as two average samples add to it.
    """
    for name in names:
        metric, after = trained.metric(name), exported.metric(name).value
        before = metric.value
        tolerance = max(EXPORT_METRIC_TOLERANCE, _NUM_ON_EDGE / metric.num_samples) * max(1.0, abs(before))
        if not abs(before - after) <= tolerance + _ROUNDING:
            raise ParityFailed(
                f"{name} is {before:.4f} for the trained network and {after:.4f} for the ONNX graph; "
                f"at most {tolerance:.2g} may lie between them; nothing was published"
            )


def check_loss(before: Measure, after: Measure) -> float:
    """How much worse the task's metric is for a lowered graph, on the same samples; negative where it is better.

    Raises ParityFailed above one point: 0.01, or one per cent of a metric that is above 1.
    """
    old, new = before.metric.value, after.metric.value
    loss = old - new if before.larger_is_better else new - old
    if not loss <= METRIC_TOLERANCE * max(1.0, abs(old)) + _ROUNDING:
        raise ParityFailed(
            f"{before.metric.name} is {old:.4f} for the FP32 graph and {new:.4f} for the lowered one; "
            f"at most {METRIC_TOLERANCE:g} may be lost; nothing was published"
        )
    return loss


class _Found:
    """What comparing two sides has found so far: the largest error, or why they can't be compared."""

    def __init__(self, sides: tuple[str, str], postprocess: Postprocess | None = None) -> None:
        self._sides, self._postprocess = sides, postprocess
        self.error = 0.0
        self._problem: str | None = None

    def compare(self, expected: Tensors, got: Tensors) -> None:
        for side, outputs in zip(self._sides, (expected, got), strict=True):
            for name, values in outputs.items():
                if values.dtype.kind == "f" and not np.isfinite(values).all():
                    self._problem = self._problem or f"output {name!r}: {side} answers NaN or infinity"
        try:
            self.error = max(self.error, largest_error(expected, got, self._postprocess))
        except ValueError as exc:
            self._problem = self._problem or f"{self._sides[1]}: {exc}"

    def hold(self, tolerance: float, search: Callable[[], Disagreement | None]) -> None:
        """Raise ParityFailed, with the first tensor that disagrees, unless the two agree."""
        if self._problem is None and self.error <= tolerance:
            return
        mine, theirs = self._sides
        strays = f"expected {theirs} within {tolerance:g} of {mine}, got an error of {self.error:.2e}"
        first = search()
        where = "" if first is None else f"; {first}"
        raise ParityFailed(f"{self._problem or strays}{where}; nothing was published")


def _edges(inputs: Tensors, sizes: Sequence[int]) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    num_samples = len(_first(inputs))
    for size in sizes:
        yield size, {name: array[np.arange(size) % num_samples] for name, array in inputs.items()}


def _first(tensors: Tensors) -> NDArray[Any]:
    return next(iter(tensors.values()))


def _take(inputs: Tensors, num: int) -> dict[str, NDArray[Any]]:
    return {name: array[:num] for name, array in inputs.items()}
