"""What the graph answers to the samples, and at the ends of its axes' ranges; the outputs' shapes follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.schema import AxisRange, TensorSpec
from contract.tensor import DTYPES, Tensors
from training.importer.axis import Axes
from training.importer.error import ImportRefused
from training.importer.graph import Port
from training.importer.opened import Opened
from training.importer.probe import RunFailed, resized
from training.importer.sample import Group

Arrays = dict[str, NDArray[Any]]
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """Samples `[M, ...]` and what the graph made of them; without samples, one made-up one, not `real`.

    Where the shape of an answer depends on the data, `outputs` holds the first answer only; `shapes` holds all shapes.
    """

    inputs: Arrays
    outputs: Arrays
    shapes: dict[str, set[Shape]]
    group: Group = field(default_factory=lambda: Group(inputs={}))
    real: bool = True


def answer(opened: Opened, groups: Sequence[Group], axes: Axes, batch_size: int) -> list[Answered]:
    """Run every sample; raises ImportRefused when the graph fails on one, or answers one with NaN."""
    answered = []
    for group in groups:
        inputs = group.rows(batched=opened.batched)
        outputs, shapes = _run_all(opened, inputs, batch_size)
        for name, array in outputs.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ImportRefused(f"output {name!r} holds NaN or infinity on the samples: the model isn't sound")
        answered.append(Answered(inputs=inputs, outputs=outputs, shapes=shapes, group=group))
    if not answered:
        rows = axes.sample if opened.batched else {name: array[np.newaxis] for name, array in axes.sample.items()}
        outputs, shapes = _run_all(opened, rows, batch_size)
        answered.append(Answered(inputs=rows, outputs=outputs, shapes=shapes, real=False))
    return answered


def takes_zeros(opened: Opened, specs: Sequence[TensorSpec], batch: AxisRange) -> bool:
    """Whether the graph answers zeros at the lengths that it is tuned for, one sample and the largest batch of them."""
    for size in (1, batch.max):
        front = (size,) if opened.batched else ()
        zeros = {}
        for spec in specs:
            shape = (*front, *(axis.opt for axis in spec.bounds()))
            texts = spec.datatype == "BYTES"
            zeros[spec.name] = np.full(shape, "", object) if texts else np.zeros(shape, DTYPES[spec.datatype])
        try:
            opened.probe.run(zeros)
        except RunFailed:
            return False
    return True


def input_specs(opened: Opened, axes: Axes, answered: Sequence[Answered]) -> tuple[TensorSpec, ...]:
    """The inputs as a contract has them: an axis whose range is one length is fixed at it."""
    specs = []
    for port in opened.interface.inputs:
        own = (port.axes or ())[1 if opened.batched else 0 :]
        bounds = [_fixed(axis) if isinstance(axis, int) else axes.ranges[axis] for axis in own]
        open_ = [axis for axis in bounds if axis.min != axis.max]
        some_nan = any(_has_nan(part.inputs[port.name]) for part in answered)
        specs.append(
            TensorSpec(
                name=port.name,
                datatype=port.datatype,  # type: ignore[arg-type]
                shape=tuple(axis.min if axis.min == axis.max else -1 for axis in bounds),
                ranges=tuple(open_),
                allow_nan=some_nan,
            )
        )
    return tuple(specs)


def output_specs(opened: Opened, axes: Axes, answered: Sequence[Answered]) -> tuple[TensorSpec, ...]:
    """The outputs as a contract has them: an axis is fixed where the graph says so, or where nothing can change it."""
    ends, both_ran = _ends(opened, axes)
    shapes = {p.name: set[Shape]().union(*(part.shapes[p.name] for part in answered)) for p in opened.interface.outputs}
    for outputs in ends:
        for name, array in outputs.items():
            shapes[name].add(array.shape[1:] if opened.batched else array.shape)
    certain = both_ran and not opened.interface.data_dependent
    return tuple(
        _output_spec(port, shapes[port.name], opened, axes, certain=certain) for port in opened.interface.outputs
    )


def _output_spec(port: Port, shapes: set[Shape], opened: Opened, axes: Axes, *, certain: bool) -> TensorSpec:
    if len({len(shape) for shape in shapes}) != 1:
        raise ImportRefused(f"output {port.name!r} has as many axes as it likes ({sorted(shapes)}): fix its rank")
    said = _said(port, opened)
    shape = []
    for index, lengths in enumerate(zip(*shapes, strict=True)):
        axis = said[index] if len(said) == len(next(iter(shapes))) else ""
        follows = isinstance(axis, str) and axis in axes.ranges and axes.ranges[axis].min != axes.ranges[axis].max
        fixed = isinstance(axis, int) or (certain and not follows)
        shape.append(lengths[0] if fixed and len(set(lengths)) == 1 and lengths[0] > 0 else -1)
    return TensorSpec(name=port.name, datatype=port.datatype, shape=tuple(shape))  # type: ignore[arg-type]


def _said(port: Port, opened: Opened) -> list[int | str]:
    """An output's axes as the graph says them, or ONNX Runtime where it knows more; without the batch axis."""
    if port.axes is None:
        return []
    inferred = opened.probe.output_axes(port.name)
    known = inferred if len(inferred) == len(port.axes) else port.axes
    axes = [there if isinstance(there, int) else own for own, there in zip(port.axes, known, strict=True)]
    return axes[1 if opened.batched else 0 :]


def _ends(opened: Opened, axes: Axes) -> tuple[list[Arrays], bool]:
    """Answers at the shortest and the longest lengths, and whether the graph gave both."""
    answers: list[Arrays] = []
    for end in ("min", "max"):
        lengths = {name: getattr(axis, end) for name, axis in axes.ranges.items()}
        try:
            answers.append(opened.probe.run(resized(opened.interface, axes.sample, lengths)))
        except RunFailed:  # lengths that occur may not occur together
            continue
    return answers, len(answers) == 2


def _run_all(opened: Opened, inputs: Tensors, batch_size: int) -> tuple[Arrays, dict[str, set[Shape]]]:
    num = len(next(iter(inputs.values())))
    step = batch_size if opened.batched else 1
    parts: list[Arrays] = []
    for start in range(0, num, step):
        rows = {name: array[start : start + step] for name, array in inputs.items()}
        try:
            if opened.batched:
                parts.append(opened.probe.run(rows))
            else:
                one = opened.probe.run({name: np.asarray(array[0]) for name, array in rows.items()})
                parts.append({name: np.asarray(array)[np.newaxis] for name, array in one.items()})
        except RunFailed as exc:
            raise ImportRefused(f"the graph fails on sample {start}: {exc}") from exc
    shapes = {name: {part[name].shape[1:] for part in parts} for name in parts[0]}
    if any(len(found) > 1 for found in shapes.values()):
        return parts[0], shapes
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, shapes


def _fixed(length: int) -> AxisRange:
    return AxisRange(min=length, opt=length, max=length)


def _has_nan(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" and bool(np.isnan(array).any())
