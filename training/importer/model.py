"""From somebody's ONNX graph to a contract: what the graph says, what running it shows, and what the user adds.

open -> batch axis -> pixels into the graph -> lengths of axes -> run on the samples -> shapes -> meaning
"""

from dataclasses import dataclass
from pathlib import Path

import onnx

from contract.schema import AxisRange, Postprocess, Preprocess, TensorPreprocess, TensorSpec
from training.export import ONNX_FILE
from training.importer import image, sample
from training.importer.answer import Answered, answer, input_specs, output_specs, takes_zeros
from training.importer.axis import Axes, settle
from training.importer.error import ImportRefused
from training.importer.graph import labels_in
from training.importer.image import Pixels
from training.importer.meaning import postprocess
from training.importer.opened import Opened, find_batch_axis, open_model
from training.importer.probe import RunFailed, resized
from training.importer.sample import Samples
from training.importer.scalar import as_elements
from training.importer.wish import Wish


@dataclass(frozen=True, kw_only=True, slots=True)
class Derived:
    """Everything of a contract that graph, samples and wish tell, and what a person is to be told of it."""

    wish: Wish
    opened: Opened
    samples: Samples
    answered: tuple[Answered, ...]
    batch: AxisRange
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    postprocess: Postprocess
    state: dict[str, str]
    takes_zeros: bool
    remarks: tuple[str, ...]


def derive(model: onnx.ModelProto, wish: Wish, folder: Path) -> Derived:
    """Derive all that a contract says of the model; its files go below `folder`. Raises ImportRefused."""
    original = open_model(as_elements(model), folder / "original", ONNX_FILE)
    noted = original.interface
    ready = _tensors(original, wish) if wish.pixels is None else _images(original, wish, wish.pixels, folder)
    opened, axes = ready.opened, ready.axes
    batch = wish.batch if opened.batched else AxisRange(min=1, opt=1, max=1)
    _check_largest_batch(opened, axes, batch)
    answered = answer(opened, ready.samples.groups, axes, batch.opt)
    inputs, outputs = input_specs(opened, axes, answered), output_specs(opened, axes, answered)
    meaning, read_as = postprocess(wish, labels_in(noted.notes), outputs, answered[0].outputs)
    return Derived(
        wish=wish,
        opened=opened,
        samples=ready.samples,
        answered=tuple(answered),
        batch=batch,
        inputs=inputs,
        outputs=outputs,
        preprocess=ready.preprocess,
        postprocess=meaning,
        state=noted.state,
        takes_zeros=takes_zeros(opened, inputs, batch),
        remarks=(*ready.said, *_said_of_axes(axes), *_said_of_state(noted.state), read_as),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    """A graph that takes what a client or the gateway's preprocessing sends, and samples of that."""

    opened: Opened
    axes: Axes
    samples: Samples
    preprocess: Preprocess
    said: tuple[str, ...]


def _tensors(original: Opened, wish: Wish) -> _Ready:
    samples = sample.read(wish.samples, original.interface)
    firsts = [group.first() for group in samples.groups]
    stacked = any(group.stacked for group in samples.groups)
    opened, axes, said = find_batch_axis(original, wish.axes, firsts, stacked=stacked)
    return _Ready(opened=opened, axes=axes, samples=samples, preprocess=TensorPreprocess(), said=(said,))


def _images(original: Opened, wish: Wish, pixels: Pixels, folder: Path) -> _Ready:
    found = image.layout(original.interface, pixels)
    plain, _, said = find_batch_axis(original, _fixed_size(found), (), stacked=False)
    opened = _with_pixels(plain, found, pixels, folder / "with-pixels")
    made = image.preprocess(found, pixels)
    arrays = all(path.suffix == ".npz" for path in wish.samples)
    samples = sample.read(wish.samples, opened.interface) if arrays else sample.read_images(wish.samples, made)
    axes = settle(opened.probe, opened.interface, {}, [group.first() for group in samples.groups], opened.batch)
    said_too = (said, _said_of_pixels(pixels))
    return _Ready(opened=opened, axes=axes, samples=samples, preprocess=made, said=said_too)


def _fixed_size(found: image.Layout) -> dict[str, AxisRange]:
    """The lengths that the image's size gives to axes which the graph leaves open."""
    sides = (2, 3) if found.channels_first else (1, 2)
    axes = found.port.axes or ()
    return {
        axis: AxisRange(min=length, opt=length, max=length)
        for axis, length in zip((axes[side] for side in sides), (found.height, found.width), strict=True)
        if isinstance(axis, str)
    }


def _with_pixels(opened: Opened, found: image.Layout, pixels: Pixels, folder: Path) -> Opened:
    changed = open_model(image.prepend(opened.model, found, pixels, batched=opened.batched), folder, ONNX_FILE)
    first = (changed.interface.inputs[0].axes or ("",))[0]
    return changed.with_batch(str(first)) if opened.batched else changed


def _check_largest_batch(opened: Opened, axes: Axes, batch: AxisRange) -> None:
    try:
        opened.probe.run(resized(opened.interface, axes.sample, dict.fromkeys(opened.batch, batch.max)))
    except RunFailed as exc:
        raise ImportRefused(
            f"the graph doesn't take a batch of {batch.max}; say a smaller one with --batch: {exc}"
        ) from exc


def _said_of_axes(axes: Axes) -> list[str]:
    said = []
    for name, axis in axes.ranges.items():
        lengths = f"{axis.min} to {axis.max}, tuned for {axis.opt}" if axis.min < axis.max else f"always {axis.opt}"
        said.append(f"axis {name!r}: {lengths}, {axes.origin[name]}")
    return said


def _said_of_state(state: dict[str, str]) -> list[str]:
    if not state:
        return []
    pairs = ", ".join(f"{output!r} as {fed_back!r}" for output, fed_back in state.items())
    return [f"it keeps state, which the client holds: send {pairs} with the next request"]


def _said_of_pixels(pixels: Pixels) -> str:
    order = "BGR" if pixels.bgr else "RGB or grey"
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (pixels.mean, pixels.std))
    return (
        f"the graph gets {order} pixels as (pixel * {pixels.scale:.6g} - {mean}) / {std}: "
        "--scale, --mean and --std say what the model was trained on"
    )
