"""From what a model's outputs mean to the JSON that a client reads.

The counterpart of `contract.preprocess`: made once a version, with what has to be loaded from its folder, and called
for every request.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from contract import tokenizer
from contract.picture import box_answer, mask_answer
from contract.place import ImagePlace, Places, TextPlace
from contract.postprocess import Array, generated
from contract.schema import (
    BoxesPostprocess,
    ClassificationPostprocess,
    EmbeddingPostprocess,
    GenerationPostprocess,
    MaskPostprocess,
    Postprocess,
    RegressionPostprocess,
    TensorPostprocess,
    TokenLabelsPostprocess,
)
from contract.span import span_answer
from contract.tensor import Tensors

# Handing work to another thread costs about 0.1 ms and a contest for the interpreter: what is no larger costs less.
_QUICK_BYTES = 128 * 1024
_QUICK_PIXELS = 128 * 128

Answers = list[dict[str, Any]]


class Answerer(Protocol):
    """Turns what a model answered to the items of one request into JSON."""

    def quick(self, outputs: Tensors, places: Places) -> bool:
        """Whether that, `interpret` included, takes less time than handing it to another thread would."""

    def __call__(self, outputs: Tensors, meaning: Array | None, places: Places) -> Answers:
        """One JSON object a sample.

        `meaning` is what `interpret` made of the same outputs; `places` are those that preprocessing gave.
        """


def answerer(spec: Postprocess, version_dir: Path) -> Answerer:
    """A contract's way of answering, its files loaded.

    Raises ContractInvalid when a file that answering needs can't be loaded.
    """
    match spec:
        case ClassificationPostprocess():
            return _Classes(spec)
        case RegressionPostprocess():
            return _Values(spec)
        case EmbeddingPostprocess():
            return _Vectors()
        case TokenLabelsPostprocess():
            return _Spans(spec)
        case BoxesPostprocess():
            return _Boxes(spec)
        case MaskPostprocess():
            return _Masks(spec)
        case GenerationPostprocess():
            return _Texts(spec, version_dir)
        case TensorPostprocess():
            return _Outputs()


class _Quick:
    def quick(self, outputs: Tensors, places: Places) -> bool:
        return True


class _Classes(_Quick):
    def __init__(self, spec: ClassificationPostprocess) -> None:
        self.labels = spec.labels
        self.top_k = spec.top_k

    def __call__(self, outputs: Tensors, meaning: Array | None, places: Places) -> Answers:
        assert meaning is not None
        return [self._answer(row) for row in meaning]

    def _answer(self, probabilities: Array) -> dict[str, Any]:
        if not np.isfinite(probabilities).all():  # the model answered NaN: no label is right
            return {"label": None, "confidence": None, "top": []}
        order = np.argsort(-probabilities, kind="stable")[: self.top_k]
        top = [
            {"label": self.labels[i], "confidence": p}
            for i, p in zip(order.tolist(), probabilities[order].tolist(), strict=True)
        ]
        return {**top[0], "top": top}


class _Values(_Quick):
    def __init__(self, spec: RegressionPostprocess) -> None:
        self.unit = spec.unit

    def __call__(self, outputs: Tensors, meaning: Array | None, places: Places) -> Answers:
        assert meaning is not None
        return [{"value": _number(value), "unit": self.unit} for value in meaning.tolist()]


class _Vectors(_Quick):
    def __call__(self, outputs: Tensors, meaning: Array | None, places: Places) -> Answers:
        assert meaning is not None
        return [{"embedding": [_number(value) for value in row]} for row in meaning.tolist()]


class _Outputs(_Quick):
    def __call__(self, outputs: Tensors, meaning: Array | None, places: Places) -> Answers:
        names = sorted(outputs)
        return [{"outputs": {name: outputs[name][i].tolist() for name in names}} for i in range(len(outputs[names[0]]))]


class _Spans:
    def __init__(self, spec: TokenLabelsPostprocess) -> None:
        self.spec = spec

    def quick(self, outputs: Tensors, places: Places) -> bool:
        return outputs[self.spec.tensor].nbytes <= _QUICK_BYTES

    def __call__(self, outputs: Tensors, meaning: Array | None, places: Places) -> Answers:
        assert meaning is not None
        return [span_answer(self.spec, row, place) for row, place in zip(meaning, _texts(places), strict=True)]


class _Boxes:
    def __init__(self, spec: BoxesPostprocess) -> None:
        self.spec = spec

    def quick(self, outputs: Tensors, places: Places) -> bool:
        return outputs[self.spec.scores_tensor].nbytes <= _QUICK_BYTES

    def __call__(self, outputs: Tensors, meaning: Array | None, places: Places) -> Answers:
        assert meaning is not None
        samples = zip(outputs[self.spec.boxes_tensor], meaning, _images(places), strict=True)
        return [box_answer(self.spec, boxes, scores, place) for boxes, scores, place in samples]


class _Masks:
    def __init__(self, spec: MaskPostprocess) -> None:
        self.spec = spec

    def quick(self, outputs: Tensors, places: Places) -> bool:
        num_pixels = sum(place.width * place.height for place in _images(places))
        return outputs[self.spec.tensor].nbytes <= _QUICK_BYTES and num_pixels <= _QUICK_PIXELS

    def __call__(self, outputs: Tensors, meaning: Array | None, places: Places) -> Answers:
        assert meaning is not None
        return [mask_answer(self.spec, row, place) for row, place in zip(meaning, _images(places), strict=True)]


class _Texts:
    def __init__(self, spec: GenerationPostprocess, version_dir: Path) -> None:
        self.spec = spec
        self.tokenizer = tokenizer.load(version_dir, spec.tokenizer)
        self.num_ids = self.tokenizer.get_vocab_size()

    def quick(self, outputs: Tensors, places: Places) -> bool:
        return outputs[self.spec.tensor].nbytes <= _QUICK_BYTES

    def __call__(self, outputs: Tensors, meaning: Array | None, places: Places) -> Answers:
        assert meaning is not None
        kept = generated(self.spec, meaning) & (meaning >= 0) & (meaning < self.num_ids)
        texts = self.tokenizer.decode_batch([row[chosen].tolist() for row, chosen in zip(meaning, kept, strict=True)])
        return [{"text": text} for text in texts]


def _images(places: Places) -> Sequence[ImagePlace]:
    return [place for place in places if isinstance(place, ImagePlace)]


def _texts(places: Places) -> Sequence[TextPlace]:
    return [place for place in places if isinstance(place, TextPlace)]


def _number(value: float) -> float | None:
    """JSON has no NaN: a model that answers one is shown as null, and counted where features are."""
    return value if np.isfinite(value) else None
