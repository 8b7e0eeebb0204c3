"""An ONNX file from somebody else: read without trusting it.

Protobuf holds no code, but a tensor may name a file that holds its data. Such a file must lie in the model's folder or
below, be a plain file reached without a link, and hold every byte that the tensor claims; nothing else is opened.
Files that hold code (pickles, TorchScript) are refused by their first bytes.
Source: https://onnx.ai/onnx/repo-docs/ExternalData.html
"""

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from training.importer.error import ImportRefused

Part = TypeVar("Part")

INLINE_BYTES = 1_800_000_000  # a protobuf message ends at 2 GiB
DATA_FILE = "model.onnx.data"
_HALF_BYTES = {TensorProto.UINT4, TensorProto.INT4, TensorProto.FLOAT4E2M1}


def is_factory(source: str) -> bool:
    """Whether the source is `package.module:make` rather than a file."""
    module, colon, function = source.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), function))


def read(path: Path) -> onnx.ModelProto:
    """The model of a file, its external data read in; raises ImportRefused."""
    if not path.is_file():
        raise ImportRefused(f"expected an ONNX file or `package.module:make`, {path} is no file")
    with path.open("rb") as file:
        refuse_code(path, file.read(64))
    try:
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except DecodeError:
        model = onnx.ModelProto()
    if not model.graph.node or not model.opset_import:
        raise ImportRefused(f"{path} is no ONNX model: it is another kind of file, or a damaged one")
    for tensor in parts(model, TensorProto):
        if tensor.data_location == TensorProto.EXTERNAL:
            _read_external(tensor, path.parent)
    return model


def write(model: onnx.ModelProto, folder: Path, name: str, *, inline_bytes: int = INLINE_BYTES) -> list[str]:
    """Write the model; names of its files, the graph's first. What is too large for one file has its data beside it."""
    if model.ByteSize() <= inline_bytes:
        (folder / name).write_bytes(model.SerializeToString(deterministic=True))
        return [name]
    apart = onnx.ModelProto()
    apart.CopyFrom(model)  # saving with external data empties the tensors
    onnx.save_model(apart, folder / name, save_as_external_data=True, location=DATA_FILE)
    return [name, DATA_FILE]


def num_parameters(model: onnx.ModelProto) -> int:
    """Elements of all weights: the floating-point tensors that the model holds."""
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT8}
    return sum(math.prod(tensor.dims) for tensor in parts(model, TensorProto) if tensor.data_type in floats)


def parts(message: Any, kind: type[Part]) -> Iterator[Part]:
    """Every message of a kind at any depth: in the graph, its nodes' attributes and branches, in functions."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in [value] if hasattr(value, "ListFields") else value:
            if isinstance(part, kind):
                yield part
            if not isinstance(part, TensorProto):  # nothing lies deeper in one, and there are many
                yield from parts(part, kind)


def _read_external(tensor: TensorProto, folder: Path) -> None:
    """Replace a tensor's reference to a file by that file's bytes."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _inside(tensor.name, entries.get("location", ""), folder)
    expected = math.ceil(math.prod(tensor.dims) * _item_bits(tensor) / 8)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", expected))
    except ValueError:
        offset = length = -1
    if offset < 0 or length != expected or offset + length > path.stat().st_size:
        raise ImportRefused(
            f"tensor {tensor.name!r:.80} needs {expected} bytes, and {path.name} doesn't hold them where the model "
            "says: the two files don't belong together, or one is damaged"
        )
    with path.open("rb") as file:
        file.seek(offset)
        tensor.raw_data = file.read(length)
    del tensor.external_data[:]
    tensor.data_location = TensorProto.DEFAULT


def _inside(name: str, location: str, folder: Path) -> Path:
    parts = PurePosixPath(location)
    if not location or parts.is_absolute() or ".." in parts.parts or "\\" in location or ":" in location:
        raise ImportRefused(
            f"tensor {name!r:.80} has its data in {location!r:.120}: expected a file in the model's own folder"
        )
    path = folder
    for part in parts.parts:
        path = path / part
        if path.is_symlink():
            raise ImportRefused(f"{location!r:.120}, the model's data, is a link: put the file itself there")
    if not path.is_file():
        raise ImportRefused(f"{location!r:.120}, the model's data, isn't beside it: copy the file into {folder}")
    return path


def _item_bits(tensor: TensorProto) -> int:
    if tensor.data_type in _HALF_BYTES:
        return 4
    try:
        return onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8
    except (KeyError, TypeError):
        raise ImportRefused(f"tensor {tensor.name!r:.80} has a type that isn't known: {tensor.data_type}") from None


def refuse_code(path: Path, start: bytes) -> None:
    """Raise ImportRefused for a file that starts like a pickle or an archive of pickles."""
    if start[:2] == b"PK":
        kind = "a zip archive, as torch.save, torch.jit.save and torch.export.save write them"
    elif start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        kind = "a pickle"
    else:
        return
    raise ImportRefused(
        f"{path} is {kind}; such a file can run code when it is read: save the weights with safetensors and import "
        "`package.module:make --weights FILE`, or export the model to ONNX"
    )
