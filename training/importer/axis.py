"""How long an axis may be that the graph leaves open: as the user says, as the samples are, or as far as the graph ran.

An engine's optimization profile needs bounds, and so does a gateway that is to refuse what would fail. Nobody has to be
asked for them where running the graph tells.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.schema import AxisRange
from contract.tensor import Tensors
from training.importer.error import ImportRefused
from training.importer.graph import Interface
from training.importer.probe import Probe, RunFailed, made_up, resized

# Lengths tried where nobody says: those of tokens and frames first, then those of pictures.
_TYPICAL = (64, 16, 32, 128, 224, 256, 512)
_LONGEST = 512
_NUM_IDS = (256, 2)
_BATCH = re.compile(r"(batch|batch_size|batchsize|bs|n)(_\d+)?", re.I)


@dataclass(frozen=True, kw_only=True, slots=True)
class Axes:
    """The range of every axis whose length varies, where each comes from, and one input that the graph takes."""

    ranges: dict[str, AxisRange]
    origin: dict[str, str]
    sample: dict[str, NDArray[Any]]


def varying(interface: Interface) -> list[str]:
    """Names of the axes of inputs whose lengths vary, in order."""
    return list(dict.fromkeys(axis for port in interface.inputs for axis in port.axes or () if isinstance(axis, str)))


def settle(
    probe: Probe,
    interface: Interface,
    given: Mapping[str, AxisRange],
    samples: Sequence[Tensors],
    batch: Sequence[str] = (),
) -> Axes:
    """Find the range of every axis but the batch's; ImportRefused when the graph takes nothing that was tried.

    `samples` are inputs in the graph's own shapes. The sample that comes back has a batch axis of 1, or a sample's.
    """
    names = [name for name in varying(interface) if name not in batch]
    if unknown := sorted(given.keys() - set(names)):
        raise ImportRefused(f"expected ranges for the axes {names}, got one for {unknown[0]!r:.80}")
    ranges, origin = dict(given), dict.fromkeys(given, "as given")
    if not batch and not samples:  # a batch axis that isn't in front, as a recurrent network's state has it
        alone = [name for name in names if _BATCH.fullmatch(name) and name not in given]
        ranges |= dict.fromkeys(alone, AxisRange(min=1, opt=1, max=1))
        origin |= dict.fromkeys(alone, "by its name a batch that nothing can be joined to")
    unsettled = [name for name in names if name not in ranges]
    if samples:
        sample = {name: np.asarray(array) for name, array in samples[0].items()}
        _must_run(probe, sample, "the first sample")
        found = {name: _seen(interface, samples, name) for name in unsettled}
        said = "as in the samples"
    else:
        known = dict.fromkeys(batch, 1) | {name: axis.opt for name, axis in ranges.items()}
        opt, sample = _first_taken(probe, interface, known, unsettled)
        found = dict.fromkeys(unsettled, _bounds(probe, interface, sample, unsettled, opt))
        said = "as far as the graph was tried"
    ranges |= found
    origin |= dict.fromkeys(found, said)
    for name, axis in given.items():
        for length in {axis.min, axis.max}:
            _must_run(probe, resized(interface, sample, {name: length}), f"length {length} of axis {name!r}")
    return Axes(ranges=ranges, origin=origin, sample=sample)


def _seen(interface: Interface, samples: Sequence[Tensors], name: str) -> AxisRange:
    lengths = sorted(
        sample[port.name].shape[index]
        for sample in samples
        for port in interface.inputs
        for index, axis in enumerate(port.axes or ())
        if axis == name
    )
    return AxisRange(min=lengths[0], opt=lengths[len(lengths) // 2], max=lengths[-1])


def _first_taken(
    probe: Probe, interface: Interface, known: Mapping[str, int], unsettled: Sequence[str]
) -> tuple[int, dict[str, NDArray[Any]]]:
    """The first typical length that the graph takes, and an input of it."""
    said = ""
    for num_ids, opt in itertools.product(_NUM_IDS, _TYPICAL if unsettled else (1,)):
        sample = made_up(interface, {**known, **dict.fromkeys(unsettled, opt)}, num_ids)
        try:
            probe.run(sample)
        except RunFailed as exc:
            said = said or str(exc)
        else:
            return opt, sample
    what = f" of any of the lengths {list(_TYPICAL)} for {', '.join(unsettled)}" if unsettled else ""
    raise ImportRefused(
        f"the graph takes no made-up input{what} ({said}): bring one real input with --sample, "
        "or say the lengths with --axis"
    )


def _bounds(probe: Probe, interface: Interface, sample: Tensors, unsettled: Sequence[str], opt: int) -> AxisRange:
    """The shortest and the longest length that ran, of those that are powers of two between 1 and the longest tried."""

    def runs(length: int) -> bool:
        try:
            probe.run(resized(interface, sample, dict.fromkeys(unsettled, length)))
        except RunFailed:
            return False
        return True

    powers = [2**power for power in range(_LONGEST.bit_length())]
    low = next((length for length in powers if length < opt and runs(length)), opt)
    high = next((length for length in reversed(powers) if length > opt and runs(length)), opt)
    return AxisRange(min=low, opt=opt, max=high)


def _must_run(probe: Probe, inputs: Tensors, what: str) -> None:
    try:
        probe.run(inputs)
    except RunFailed as exc:
        raise ImportRefused(f"the graph doesn't take {what}: {exc}") from exc
