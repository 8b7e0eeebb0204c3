"""Requests that a version answers: what its documentation shows, taken from its golden samples and its profile."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from contract import Contract, ContractInvalid, InputError
from contract.golden import Golden
from contract.profile import MISSING, OTHER, Feature
from contract.schema import Column, ImagePreprocess, TablePreprocess, TensorSpec, TextPreprocess
from contract.tensor import DTYPES, check_inputs

MAX_TEXT_CHARACTERS = 500
MAX_VALUES = 1024  # of a tensor that is shown as JSON

_MAX_GOLDEN_BYTES = 64 * 1024 * 1024
_MAX_PNG_BYTES = 16 * 1024
_NO_JSON = ("FP16", "BF16")
_A_TEXT = "A short text."

Tensors = dict[str, NDArray[Any]]


def sample(contract: Contract, version_dir: Path) -> Tensors:
    """Input tensors of one sample `[1, ...]`: the first golden one, or zeros where there is none that fits."""
    golden = contract.artifact("golden")
    if golden is not None and golden.size_bytes <= _MAX_GOLDEN_BYTES:
        try:
            tensors = {name: np.atleast_1d(array)[:1] for name, array in Golden.load(version_dir).inputs.items()}
            check_inputs(contract.inputs, contract.batch, tensors)
        except (ContractInvalid, InputError):
            pass  # an example is no reason to fail: whoever checks the version's files says what is wrong
        else:
            return tensors
    return {spec.name: _zeros(spec) for spec in contract.inputs}


def item(contract: Contract, version_dir: Path, tensors: Tensors) -> Any:
    """One item of a JSON predict request, of the same meaning as the sample where there is a way back."""
    match contract.preprocess:
        case ImagePreprocess() as image:
            return base64.b64encode(image_file(tensors[image.tensor][0])).decode()
        case TextPreprocess() as text:
            return _text(text, version_dir, tensors)
        case TablePreprocess() as table:
            features = {feature.name: feature for feature in contract.profile.features}
            return {c.name: cell(c, features.get(f"column.{c.name}")) for c in table.columns}
        case _:
            return None


def values(specs: tuple[TensorSpec, ...], tensors: Tensors) -> list[dict[str, Any]] | None:
    """The inputs of a V2 request in JSON; None when they are too many, or have no JSON form."""
    if sum(array.size for array in tensors.values()) > MAX_VALUES or any(s.datatype in _NO_JSON for s in specs):
        return None
    try:
        return [
            {
                "name": spec.name,
                "datatype": spec.datatype,
                "shape": list(tensors[spec.name].shape),
                "data": _flat(tensors[spec.name]),
            }
            for spec in specs
        ]
    except UnicodeDecodeError:
        return None


def image_file(pixels: NDArray[np.uint8]) -> bytes:
    """The file of an image `[height, width, channels]`: a PNG, or a JPEG where that would be large."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(png, "PNG", optimize=True)
    if png.tell() <= _MAX_PNG_BYTES:
        return png.getvalue()
    image.save(jpeg, "JPEG", quality=85)
    return jpeg.getvalue()


def cell(column: Column, feature: Feature | None) -> float | int | str:
    """What a column usually holds: the median, or the most frequent category."""
    if column.kind == "category":
        bins = () if feature is None else [b for b in feature.bins if b.id not in (OTHER, MISSING)]
        return max(bins, key=lambda b: b.ratio).id if bins else column.categories[0]
    return 0 if feature is None else tidy(_median(feature))


def tidy(value: float) -> float | int:
    """The value in as many digits as people read."""
    short = float(f"{value:.6g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _median(feature: Feature) -> float:
    """The edge at or below the median: edges are values that the reference really has."""
    *cells, missing = feature.bins
    seen, half = 0.0, (1 - missing.ratio) / 2
    for edge, one in zip((feature.edges[0], *feature.edges), cells, strict=True):
        seen += one.ratio
        if seen > half:
            return edge
    return feature.edges[-1]


def _text(spec: TextPreprocess, version_dir: Path, tensors: Tensors) -> str:
    """The text that the sample's ids stand for, as far as the tokenizer can tell."""
    ids = tensors[spec.ids_tensor][0]
    try:
        text = Tokenizer.from_file(str(version_dir / spec.tokenizer)).decode(ids[ids != spec.pad_id].tolist())
    except Exception:  # the library raises a bare Exception
        return _A_TEXT
    return str(text)[:MAX_TEXT_CHARACTERS].strip() or _A_TEXT


def _zeros(spec: TensorSpec) -> NDArray[Any]:
    shape = (1, *([bounds.opt for bounds in spec.bounds()] or [1]))
    if spec.datatype == "BYTES":
        return np.full(shape, b"text", dtype=object)
    return np.zeros(shape, DTYPES[spec.datatype])


def _flat(array: NDArray[Any]) -> list[Any]:
    if array.dtype.kind == "f":
        array = np.nan_to_num(array)  # JSON has no NaN
    return [value.decode() if isinstance(value, bytes) else value for value in array.ravel().tolist()]
