"""One test sample as a person can judge it: a picture as a picture, a text as words, a row by its columns."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from contract.schema import ImagePreprocess, Preprocess, TablePreprocess, TextPreprocess
from contract.tensor import Tensors

_MAX_SIDE_PX = 160  # the page holds its pictures: twenty of these are a few hundred kilobytes
_MAX_TEXT = 400
_MAX_VALUES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A sample in the one form that fits it: a picture's data URI, a text, or named values."""

    picture: str = ""
    text: str = ""
    values: tuple[tuple[str, str], ...] = ()


def shower(preprocess: Preprocess, tokenizer: Path | None) -> Callable[[Tensors, int], Shown]:
    """How a model's samples are shown, each given by its tensors `[N, ...]` and its index."""
    match preprocess:
        case ImagePreprocess(tensor=tensor):
            return lambda inputs, index: Shown(picture=_data_uri(inputs[tensor][index]))
        case TextPreprocess():
            words = None if tokenizer is None else Tokenizer.from_file(str(tokenizer))
            return lambda inputs, index: Shown(text=_text(preprocess, words, inputs[preprocess.ids_tensor][index]))
        case TablePreprocess():
            return lambda inputs, index: Shown(values=_cells(preprocess, inputs[preprocess.tensor][index]))
        case _:
            return lambda inputs, index: Shown(values=tuple((n, _numbers(array[index])) for n, array in inputs.items()))


def _data_uri(pixels_HWC: NDArray[np.uint8]) -> str:
    image = Image.fromarray(pixels_HWC[..., 0] if pixels_HWC.shape[-1] == 1 else pixels_HWC)
    image.thumbnail((_MAX_SIDE_PX, _MAX_SIDE_PX))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _text(spec: TextPreprocess, words: Tokenizer | None, ids: NDArray[Any]) -> str:
    real = [int(i) for i in ids if i != spec.pad_id]
    text = " ".join(map(str, real)) if words is None else words.decode(real)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} …"


def _cells(spec: TablePreprocess, row: NDArray[Any]) -> tuple[tuple[str, str], ...]:
    cells = []
    for column, value in zip(spec.columns, row.tolist(), strict=True):
        if column.kind == "category":
            shown = dict(enumerate(column.categories)).get(int(value), "missing")
        else:
            shown = "missing" if np.isnan(value) else f"{value:.4g}"
        cells.append((column.name, shown))
    return tuple(cells)


def _numbers(array: NDArray[Any]) -> str:
    flat = array.reshape(-1)
    shown = ", ".join(f"{value:.4g}" if array.dtype.kind == "f" else str(value) for value in flat[:_MAX_VALUES])
    return shown if flat.size <= _MAX_VALUES else f"{shown}, … ({' x '.join(map(str, array.shape))})"
