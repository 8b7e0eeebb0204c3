"""An image model's own preprocessing, put into its graph: decoded pixels come in, as the gateway sends them.

`UINT8` `[N, height, width, channels]` is scaled, normalized and turned into what the graph took before:
`(pixel * scale - mean) / std`, in the graph's own layout and datatype.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from contract.schema import ImagePreprocess
from training.importer.error import ImportRefused
from training.importer.graph import Interface, Port

_NAMES = ("image", "pixels", "tidegate_image")
_PREFIX = "tidegate.image"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pixels:
    """What the model was trained on. `size` is (height, width), None where the graph says it.

    `mean` and `std` are of scaled pixels, one number or one a channel, in the order that the model takes them.
    """

    size: tuple[int, int] | None = None
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    bgr: bool = False
    resize: str = "stretch"


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where a graph's image input has its channels, how large an image it takes, and what the new input is called."""

    port: Port
    tensor: str
    channels_first: bool
    height: int
    width: int
    channels: int


def layout(interface: Interface, pixels: Pixels) -> Layout:
    """Read the layout off the graph's one input; raises ImportRefused when that is no batch of images."""
    if len(interface.inputs) != 1 or len(axes := interface.inputs[0].axes or ()) != 4:
        shapes = {port.name: list(port.axes or ()) for port in interface.inputs}
        raise ImportRefused(f"expected one input of four axes for an image model, the graph has {shapes}")
    port = interface.inputs[0]
    channels_first = axes[1] in (1, 3)
    if not channels_first and axes[3] not in (1, 3):
        raise ImportRefused(f"expected 1 or 3 channels on axis 1 or 3 of {port.name!r}, the graph has {list(axes)}")
    if port.datatype not in ("FP32", "FP16", "UINT8"):
        raise ImportRefused(f"expected an image input of FP32, FP16 or UINT8, {port.name!r} is {port.datatype}")
    height, width = axes[2:] if channels_first else axes[1:3]
    channels = axes[1] if channels_first else axes[3]
    asked = pixels.size or (height, width)
    for axis, length in zip((height, width), asked, strict=True):
        if isinstance(length, str):
            raise ImportRefused(f"the graph leaves the image's size open ({list(axes)}): say it with --image 224x224")
        if isinstance(axis, int) and axis != length:
            raise ImportRefused(f"the graph takes images of {height}x{width}, --image says {asked[0]}x{asked[1]}")
    assert isinstance(asked[0], int)
    assert isinstance(asked[1], int)
    assert isinstance(channels, int)
    tensor = next(name for name in _NAMES if name != port.name)
    return Layout(
        port=port, tensor=tensor, channels_first=channels_first, height=asked[0], width=asked[1], channels=channels
    )


def preprocess(found: Layout, pixels: Pixels) -> ImagePreprocess:
    """What the gateway does before the graph's part."""
    return ImagePreprocess.model_validate(
        {
            "tensor": found.tensor,
            "mode": "L" if found.channels == 1 else "RGB",
            "height": found.height,
            "width": found.width,
            "resize": pixels.resize,
        }
    )


def prepend(model: onnx.ModelProto, found: Layout, pixels: Pixels, *, batched: bool) -> onnx.ModelProto:
    """The same model, taking an image UINT8 `[N, H, W, C]`, or `[H, W, C]` without a batch axis.

    Raises ImportRefused when mean or deviation don't fit the channels.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    shape = (found.height, found.width, found.channels)
    old = next(value for value in graph.input if value.name == found.port.name)
    batch = old.type.tensor_type.shape.dim[0].dim_param or "batch"
    names = iter(f"{_PREFIX}/{number}" for number in itertools.count())
    nodes: list[onnx.NodeProto] = []

    def then(operator: str, *constants: NDArray[np.generic], **attributes: Any) -> None:
        taken = [nodes[-1].output[0] if nodes else found.tensor]
        for constant in constants:
            graph.initializer.append(numpy_helper.from_array(constant, next(names)))
            taken.append(graph.initializer[-1].name)
        nodes.append(helper.make_node(operator, taken, [next(names)], **attributes))

    if not batched:
        then("Reshape", np.array((1, *shape), np.int64))
    if pixels.bgr:
        then("Gather", np.array([2, 1, 0], np.int64), axis=-1)
    if found.port.datatype != "UINT8":
        factor, offset = _affine(pixels, found.channels)
        then("Cast", to=TensorProto.FLOAT)
        then("Mul", factor)
        then("Sub", offset)
    if found.channels_first:
        then("Transpose", perm=[0, 3, 1, 2])
    then("Cast", to=old.type.tensor_type.elem_type)
    nodes[-1].output[0] = old.name
    new = helper.make_tensor_value_info(found.tensor, TensorProto.UINT8, (batch, *shape) if batched else shape)
    position = list(graph.input).index(old)
    graph.input[position].CopyFrom(new)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    return changed


def _affine(pixels: Pixels, channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`x * (scale / std) - mean / std`: a factor and an offset for each channel."""
    parts = []
    for name, values in (("mean", pixels.mean), ("std", pixels.std)):
        if len(values) not in (1, channels) or not np.isfinite(values).all() or (name == "std" and min(values) <= 0):
            raise ImportRefused(f"expected 1 or {channels} finite numbers in --{name}, got {list(values)}")
        parts.append(np.broadcast_to(np.array(values, np.float64), channels))
    mean, std = parts
    return (pixels.scale / std).astype(np.float32), (mean / std).astype(np.float32)
