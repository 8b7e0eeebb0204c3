"""What can be replayed: the requests that a recorded data set makes, shifted where that was asked for."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.error import CommandError
from tidegate.shift import Shift

_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
_MAX_ITEMS = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One HTTP request, ready to be sent."""

    path: str
    body: bytes
    content_type: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """So many samples, and the request that each makes; with `shifted`, of its shifted form."""

    num_samples: int
    request: Callable[[int, bool], Request]


def open_recording(
    model: str, data: str, data_dir: Path | None, shift: Shift | None, protocol: str, seed: int
) -> Recording:
    """Read a recipe's test data, a `.npz` file of input tensors, or a folder of images, texts or rows.

    Raises CommandError when there is none, or when it can't be sent in that protocol or shifted that way.
    """
    path = Path(data)
    if path.is_dir():
        return _folder(model, path, shift, seed)
    tensors = _file(path) if path.suffix == ".npz" else _recipe(data, data_dir)
    return _tensors(model, tensors, shift, protocol, seed)


def _file(path: Path) -> Mapping[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _recipe(name: str, data_dir: Path | None) -> Mapping[str, NDArray[Any]]:
    from training.recipe import find

    return find(name).load(data_dir).test.inputs


def _tensors(
    model: str, tensors: Mapping[str, NDArray[Any]], shift: Shift | None, protocol: str, seed: int
) -> Recording:
    lengths = {len(array) for array in tensors.values() if array.ndim}
    if len(lengths) != 1 or any(array.ndim == 0 for array in tensors.values()):
        raise CommandError(f"expected input tensors [M, ...] of one length, got {_shapes(tensors)}")
    shifted = tensors
    if shift is not None:
        random = np.random.default_rng(seed)
        shifted = {name: shift(array, random) for name, array in tensors.items()}
    if protocol == "predict":
        return _images(model, tensors, shifted)
    num = lengths.pop()
    return Recording(num_samples=num, request=lambda i, s: _infer(model, shifted if s else tensors, i))


def _images(model: str, tensors: Mapping[str, NDArray[Any]], shifted: Mapping[str, NDArray[Any]]) -> Recording:
    if len(tensors) != 1:
        raise CommandError(f"expected one image tensor for --protocol predict, got {_shapes(tensors)}: use v2")
    (name,) = tensors
    pixels = tensors[name]
    if pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise CommandError(f"expected images for --protocol predict, got {_shapes(tensors)}: use v2")
    return Recording(
        num_samples=len(pixels), request=lambda i, s: _predict_image(model, (shifted if s else tensors)[name][i])
    )


def _folder(model: str, folder: Path, shift: Shift | None, seed: int) -> Recording:
    files = sorted(file for file in folder.rglob("*") if file.is_file())[:_MAX_ITEMS]
    images = [file for file in files if file.suffix.lower() in _IMAGES]
    if images:
        return _image_files(model, images, shift, seed)
    if shift is not None:
        raise CommandError("only images and tensors can be shifted, and this folder holds texts or rows")
    items = [("text", file.read_text(encoding="utf-8")) for file in files if file.suffix == ".txt"]
    lines = [
        line for file in files if file.suffix == ".jsonl" for line in file.read_text(encoding="utf-8").splitlines()
    ]
    items += [("row", json.loads(line)) for line in lines if line.strip()]
    if not items:
        raise CommandError(f"expected images, .txt or .jsonl files below {folder}, found none")
    return Recording(num_samples=len(items), request=lambda i, _: _predict_json(model, *items[i]))


def _image_files(model: str, files: Sequence[Path], shift: Shift | None, seed: int) -> Recording:
    from PIL import Image

    def request(index: int, shifted: bool) -> Request:
        data = files[index].read_bytes()
        if not shifted or shift is None:
            return Request(path=_predict_path(model), body=data, content_type="image/*")
        image = Image.open(io.BytesIO(data))
        pixels = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
        changed = shift(pixels.reshape(1, *pixels.shape[:2], -1), np.random.default_rng((seed, index)))
        return _predict_image(model, changed[0])

    return Recording(num_samples=len(files), request=request)


def _predict_image(model: str, pixels_HWC: NDArray[np.uint8]) -> Request:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels_HWC[:, :, 0] if pixels_HWC.shape[2] == 1 else pixels_HWC).save(file, "PNG", compress_level=1)
    return Request(path=_predict_path(model), body=file.getvalue(), content_type="image/png")


def _predict_json(model: str, field: str, item: Any) -> Request:
    return Request(path=_predict_path(model), body=json.dumps({field: item}).encode(), content_type="application/json")


def _infer(model: str, tensors: Mapping[str, NDArray[Any]], index: int) -> Request:
    from contract.tensor import datatype_of

    inputs = [
        {
            "name": name,
            "shape": [1, *array.shape[1:]],
            "datatype": datatype_of(array),
            "data": array[index].ravel().tolist(),
        }
        for name, array in tensors.items()
    ]
    body = json.dumps({"inputs": inputs}).encode()
    return Request(path=f"/v2/models/{model}/infer", body=body, content_type="application/json")


def _predict_path(model: str) -> str:
    return f"/v1/models/{model}/predict"


def _shapes(tensors: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in tensors.items()) or "none"
