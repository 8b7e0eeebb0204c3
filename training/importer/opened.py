"""A graph opened for questions, and the first of them: whether its tensors have a batch axis in front.

A symbolic first axis that all inputs and outputs share may be one, and so may a 1 in front of all of them, which many
exporters leave there. Only running the graph tells: a batch axis is one when rows beside each other are answered as
each of them is alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from contract.schema import AxisRange
from contract.tensor import Tensors
from training.importer import file
from training.importer.axis import Axes, settle
from training.importer.error import ImportRefused
from training.importer.graph import Interface, Port, foreign_operators, interface
from training.importer.probe import Probe, why_no_batch

BATCH = "batch"


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A model, its files (the graph's first), and the means to run it; `batch` names its batch axes, if it has any."""

    model: onnx.ModelProto
    files: tuple[Path, ...]
    interface: Interface
    probe: Probe
    batch: tuple[str, ...] = ()

    @property
    def batched(self) -> bool:
        """Whether every tensor has a batch axis in front."""
        return bool(self.batch)

    def with_batch(self, *names: str) -> "Opened":
        """The same, with these batch axes."""
        return replace(self, batch=names)


def open_model(model: onnx.ModelProto, folder: Path, name: str) -> Opened:
    """Write the model into the folder, which is made, and load it; raises ImportRefused."""
    read = interface(model)
    folder.mkdir(parents=True)
    files = tuple(folder / written for written in file.write(model, folder, name))
    try:
        probe = Probe(files[0])
    except ImportRefused as exc:
        if foreign := foreign_operators(model):
            raise ImportRefused(
                f"the model uses operators that ONNX Runtime lacks: {', '.join(foreign):.200}; export it without them"
            ) from exc
        raise
    return Opened(model=model, files=files, interface=read, probe=probe)


def find_batch_axis(
    opened: Opened, given: Mapping[str, AxisRange], samples: Sequence[Tensors], *, stacked: bool
) -> tuple[Opened, Axes, str]:
    """The graph with its batch axis found, the ranges of its other axes, and one line on what was found.

    `samples` are in the graph's own shapes; `stacked` says that the user brought them so on purpose.
    """
    reason = "the samples come one by one" if stacked else "its tensors share no first axis"
    candidate = None if stacked else _candidate(opened)
    if candidate is not None:
        some = [{name: array[:2] for name, array in sample.items()} for sample in samples]
        axes = settle(candidate.probe, candidate.interface, given, some, candidate.batch)
        refusal = why_no_batch(candidate.probe, candidate.interface, axes.sample)
        if refusal is None:
            freed = "" if candidate.model is opened.model else ", freed from its fixed 1"
            return candidate, axes, f"the first axis of every tensor is the batch{freed}"
        reason = refusal
    axes = settle(opened.probe, opened.interface, given, samples)
    return opened, axes, f"no batch axis, one sample a request: {reason}"


def _candidate(opened: Opened) -> Opened | None:
    inputs, outputs = opened.interface.inputs, opened.interface.outputs
    firsts = [port.axes[0] if port.axes else None for port in inputs]
    others = [_first(port) for port in outputs]
    if all(isinstance(first, str) for first in firsts + others):
        names = tuple(dict.fromkeys(str(first) for first in firsts))
        return opened.with_batch(*names)
    if set(firsts) == {1} and all(first == 1 or isinstance(first, str) for first in others):
        path = opened.files[0]
        return open_model(_freed(opened.model), path.parent / "freed", path.name).with_batch(BATCH)
    return None


def _first(port: Port) -> int | str | None:
    """The first axis, by a made-up name where the graph doesn't say how many there are."""
    if port.axes is None:
        return f"{port.name}.0"
    return port.axes[0] if port.axes else None


def _freed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with a symbolic first axis; what it noted of the shapes in between holds no more."""
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    del freed.graph.value_info[:]
    constants = {tensor.name for tensor in freed.graph.initializer}
    for value in (*freed.graph.input, *freed.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.name not in constants and dims:
            dims[0].dim_param = BATCH
    return freed
