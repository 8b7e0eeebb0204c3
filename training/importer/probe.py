"""What a graph doesn't say is found by running it: whether it has a batch axis, and which lengths it takes.

Made-up inputs are noise, small integers, zeros for what is fed back; a user's sample is better. Other lengths are made
of a sample by repeating it along the axis, so that every value stays one that the model knows.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from contract.tensor import DTYPES, Tensors
from training.importer.error import ImportRefused
from training.importer.graph import Interface, Port

Lengths = Mapping[str, int]

# Rows of a batch may differ from rows alone by what another order of sums does, and by no more.
_ROW_TOLERANCE = 1e-3
_SEED = 0


class RunFailed(Exception):
    """ONNX Runtime ran the graph and gave up; the message is its own, on one line."""


class Probe:
    """A graph in ONNX Runtime on the CPU, run on whatever is asked."""

    def __init__(self, path: Path) -> None:
        """Raise ImportRefused when ONNX Runtime can't load the graph."""
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, and shown once
        try:
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # every status of ONNX Runtime is a class of its own, all of them plain Exceptions
            raise ImportRefused(f"ONNX Runtime can't load the model: {one_line(exc)}") from exc
        self._names = [node.name for node in self._session.get_outputs()]

    def output_axes(self, name: str) -> list[Any]:
        """Axes of an output as ONNX Runtime inferred them: an integer where it is sure."""
        return list(next(node.shape for node in self._session.get_outputs() if node.name == name))

    def run(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Outputs by name, in the graph's own shapes; raises RunFailed."""
        try:
            return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))
        except Exception as exc:  # as above
            raise RunFailed(one_line(exc)) from exc


def one_line(exc: Exception) -> str:
    """The message of a foreign exception, short and on one line."""
    return " ".join(str(exc).split())[:300]


def made_up(interface: Interface, lengths: Lengths, num_ids: int) -> dict[str, NDArray[Any]]:
    """One input of the graph that is likely to be taken, with the given lengths of the axes that vary.

    Integers are below `num_ids`: the more of them, the less alike the samples, but an embedding knows only so many.
    """
    rng = np.random.default_rng(_SEED)
    fed_back = set(interface.state.values())
    highest = {port.name: 1 if port.name in fed_back else 2 if "mask" in port.name.lower() else num_ids
               for port in interface.inputs}  # fmt: skip
    return {port.name: _values(port, lengths, rng, highest[port.name]) for port in interface.inputs}


def resized(interface: Interface, tensors: Tensors, lengths: Lengths) -> dict[str, NDArray[Any]]:
    """The same input with other lengths of the axes that `lengths` names: cut off, or repeated from its start."""
    changed = {}
    for port in interface.inputs:
        array = tensors[port.name]
        for index, axis in enumerate(port.axes or ()):
            if isinstance(axis, str) and axis in lengths:
                array = array.take(np.arange(lengths[axis]) % array.shape[index], axis=index)
        changed[port.name] = array
    return changed


def why_no_batch(probe: Probe, interface: Interface, sample: Tensors) -> str | None:
    """Why the first axis isn't a batch axis; None when it is: two rows are answered as each of them is alone.

    `sample` is one input with a first axis of 1 or more; its first two rows are used. Raises RunFailed when the graph
    doesn't take even one row.
    """
    rows = _two_rows(sample)
    alone = [probe.run({name: array[row : row + 1] for name, array in rows.items()}) for row in (0, 1)]
    try:
        together = probe.run(rows)
    except RunFailed as exc:
        return f"the graph takes one sample but not two ({exc})"
    for port in interface.outputs:
        got, parts = together[port.name], [answer[port.name] for answer in alone]
        if any(part.ndim == 0 or part.shape[0] != 1 for part in parts) or got.shape != (2, *parts[0].shape[1:]):
            return f"output {port.name!r} has no row for each sample"
        if not _same(got, np.concatenate(parts)):
            return f"output {port.name!r} answers a sample otherwise when another one is beside it"
    return None


def are_probabilities(scores: NDArray[Any]) -> bool:
    """Whether every row `[..., labels]` is a distribution already."""
    return bool((scores >= -1e-6).all() and np.allclose(scores.sum(axis=-1, dtype=np.float64), 1, atol=1e-3))


def _values(port: Port, lengths: Lengths, rng: np.random.Generator, num_ids: int) -> NDArray[Any]:
    """Noise, or integers below `num_ids`; with one of them, zeros."""
    shape = tuple(axis if isinstance(axis, int) else lengths[axis] for axis in port.axes or ())
    if port.datatype == "BYTES":
        return np.full(shape, "text", dtype=object)
    dtype = DTYPES[port.datatype]
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape) * (num_ids > 1)).astype(dtype)
    highest = 2 if dtype.kind == "b" else min(num_ids, np.iinfo(dtype).max)
    return np.asarray(rng.integers(int(dtype.kind == "b"), highest, shape)).astype(dtype)


def _two_rows(sample: Tensors) -> dict[str, NDArray[Any]]:
    """The first two rows; where there is one only, it and the same read backwards: every value stays a known one."""
    if all(len(array) >= 2 for array in sample.values()):
        return {name: array[:2] for name, array in sample.items()}
    return {
        name: np.concatenate([array[:1], array[:1, ..., ::-1] if array.ndim > 1 else array[:1]])
        for name, array in sample.items()
    }


def _same(got: NDArray[Any], expected: NDArray[Any]) -> bool:
    if got.dtype.kind != "f":
        return bool(np.array_equal(got, expected))
    scale = max(1.0, float(np.nan_to_num(np.abs(expected)).max(initial=0)))
    return bool(np.allclose(got, expected, rtol=0, atol=_ROW_TOLERANCE * scale, equal_nan=True))
