"""From what a client means (an image, a text, a row) to the model's input tensors: the one copy.

Arithmetic that belongs to preprocessing (scaling, mean and deviation, layout) is not here: it is part of the model's
graph and runs on the device.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contract import tokenizer
from contract.error import InputError
from contract.image import DecodedImage, boundless, decode, num_pixels
from contract.place import Places, TextPlace
from contract.room import Room
from contract.schema import (
    Contract,
    ImagePreprocess,
    TablePreprocess,
    TensorPreprocess,
    TensorSpec,
    TextPreprocess,
    TokenLabelsPostprocess,
)

Row = Mapping[str, Any]

# Handing work to another thread costs about 0.1 ms and a contest for the interpreter: what is no larger costs less.
_QUICK_BYTES = 4096
_QUICK_PIXELS = 128 * 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Input tensors `[N, ...]`, and what could only be seen before they were made.

    `observed` gives values `[N]` by the feature's name. `places` are the N items as they were sent; there are none
    where no kind of answer needs them.
    """

    tensors: dict[str, NDArray[Any]]
    observed: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    places: Places = ()


class Preprocessor(Protocol):
    """Turns the items of one request into tensors."""

    def quick(self, items: Sequence[Any]) -> bool:
        """Whether preparing them takes less time than handing them to another thread would."""

    def __call__(self, items: Sequence[Any], /, *, deadline: float = math.inf) -> Prepared:
        """Prepare N >= 1 items; raises InputError naming the item that doesn't fit.

        `deadline` is in monotonic seconds: when it has passed, no further item is begun and TimeoutError is raised.
        """


def preprocessor(contract: Contract, version_dir: Path, room: Room | None = None) -> Preprocessor | None:
    """The contract's preprocessing, its files loaded; None when the client sends tensors itself.

    `room` is the memory for decoding images, shared by whoever is given it. Raises ContractInvalid when a file that
    preprocessing needs can't be loaded.
    """
    match contract.preprocess:
        case ImagePreprocess() as image:
            return _Images(image, room)
        case TextPreprocess() as text:
            located = isinstance(contract.postprocess, TokenLabelsPostprocess)
            return text_preprocessor(text, contract.inputs, version_dir, located=located)
        case TablePreprocess() as table:
            return _Rows(table)
        case TensorPreprocess():
            return None


def text_preprocessor(
    spec: TextPreprocess, inputs: Sequence[TensorSpec], folder: Path, *, located: bool = False
) -> Preprocessor:
    """Text preprocessing alone, for training, which has a tokenizer before there is a contract.

    `located` keeps where in the text each token comes from. Raises ContractInvalid when the tokenizer can't be loaded.
    """
    return _Texts(spec, inputs, folder, located)


class _Images:
    def __init__(self, spec: ImagePreprocess, room: Room | None) -> None:
        self.spec = spec
        self.room = room

    def quick(self, items: Sequence[Any]) -> bool:
        return sum(map(len, items)) <= _QUICK_BYTES and sum(map(num_pixels, items)) <= _QUICK_PIXELS

    def __call__(self, items: Sequence[bytes], /, *, deadline: float = math.inf) -> Prepared:
        images: list[DecodedImage] = []
        left = self.spec.max_pixels  # for the whole request: many images cost what one large one does
        take = boundless if self.room is None else partial(self.room.take, deadline=deadline)
        for i, item in enumerate(items):
            if time.monotonic() > deadline:
                raise TimeoutError
            images.append(_named(i, len(items), decode, item, self.spec, left, take))
            left -= images[-1].num_pixels
        return Prepared(
            tensors={self.spec.tensor: np.stack([image.pixels for image in images])},
            observed={"aspect": np.array([image.aspect for image in images])},
            places=[image.place for image in images],
        )


class _Texts:
    def __init__(self, spec: TextPreprocess, inputs: Sequence[TensorSpec], folder: Path, located: bool) -> None:
        self.spec = spec
        self.dtypes = {t.name: np.int32 if t.datatype == "INT32" else np.int64 for t in inputs}
        self.fixed = any(t.name == spec.ids_tensor and t.shape == (spec.max_length,) for t in inputs)
        self.located = located
        self.tokenizer = tokenizer.load(folder, spec.tokenizer)
        self.tokenizer.enable_truncation(spec.max_length)
        self.tokenizer.enable_padding(pad_id=spec.pad_id, length=spec.max_length if self.fixed else None)

    def quick(self, items: Sequence[Any]) -> bool:
        return all(isinstance(item, str) for item in items) and sum(map(len, items)) <= _QUICK_BYTES

    def __call__(self, items: Sequence[str], /, *, deadline: float = math.inf) -> Prepared:
        texts = [_named(i, len(items), _text, item) for i, item in enumerate(items)]
        # The fast way leaves out where in the text a token comes from.
        encoded = self.tokenizer.encode_batch(texts) if self.located else self.tokenizer.encode_batch_fast(texts)
        ids = np.array([e.ids for e in encoded], dtype=self.dtypes[self.spec.ids_tensor])
        tensors: dict[str, NDArray[Any]] = {self.spec.ids_tensor: ids}
        if self.spec.mask_tensor is not None:
            mask = [e.attention_mask for e in encoded]
            tensors[self.spec.mask_tensor] = np.array(mask, dtype=self.dtypes[self.spec.mask_tensor])
        if not self.located:
            return Prepared(tensors=tensors)
        places = [TextPlace(text=text, offsets=e.offsets) for text, e in zip(texts, encoded, strict=True)]
        return Prepared(tensors=tensors, places=places)


class _Rows:
    def __init__(self, spec: TablePreprocess) -> None:
        self.spec = spec
        self.index = {c.name: {v: i for i, v in enumerate(c.categories)} for c in spec.columns}

    def quick(self, items: Sequence[Any]) -> bool:
        return len(items) * len(self.index) <= _QUICK_BYTES

    def __call__(self, items: Sequence[Row], /, *, deadline: float = math.inf) -> Prepared:
        rows = [_named(i, len(items), self._row, item) for i, item in enumerate(items)]
        return Prepared(tensors={self.spec.tensor: np.array(rows, dtype=np.float32)})

    def _row(self, row: Row) -> list[float]:
        if not isinstance(row, Mapping):
            raise InputError(f"expected an object of column names and values, got {type(row).__name__}")
        unknown = sorted(set(row) - set(self.index))
        if unknown:
            raise InputError(f"unknown columns {unknown!r:.120}; expected {sorted(self.index)!r:.400}")
        return [self._cell(column.name, column.kind, column.required, row) for column in self.spec.columns]

    def _cell(self, name: str, kind: str, required: bool, row: Row) -> float:
        value = row.get(name)
        if value is None and required:
            raise InputError(f"column {name!r} is missing")
        if kind == "category":
            if value is not None and not isinstance(value, str):
                raise InputError(f"column {name!r}: expected a string, got {value!r:.40}")
            categories = self.index[name]
            return float(len(categories) if value is None else categories.get(value, len(categories)))
        if value is None:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"column {name!r}: expected a finite number, got {value!r:.40}")
        return float(value)


def _text(item: str) -> str:
    if not isinstance(item, str):
        raise InputError(f"expected a text, got {type(item).__name__}")
    try:
        item.encode()
    except UnicodeEncodeError:
        raise InputError("the text holds half of a surrogate pair, which is no Unicode text") from None
    return item


def _named(index: int, count: int, prepare: Any, *args: Any) -> Any:
    """Call `prepare`, and say which of several items an InputError is about."""
    try:
        return prepare(*args)
    except InputError as exc:
        if count == 1:
            raise
        raise type(exc)(f"item {index}: {exc}") from exc
