"""Which bin of the profile each sample of a batch falls into: the same code builds the reference and counts traffic.

The features of a version follow from its contract:

- image: `brightness`, `contrast`, `sharpness` (mean step between neighbouring pixels) of the model's input;
  `aspect` (width / height) where the original was seen
- text: `length` in tokens, `unknown_ratio`
- table: `column.<name>`
- tensors: `<input>.mean` and `<input>.std` of each numeric input
- classification: `prediction`, `confidence`, `entropy`; regression: `value`; embedding: `norm`
- token labels: `spans` (tokens that aren't outside), `confidence` (mean over the tokens)
- boxes: `boxes` (how many there are), `confidence` (of the surest)
- mask: `foreground` (share of the pixels), `confidence` (mean over the pixels), both of a grid of pixels where there
  are many
- generation: `generated_length` in tokens
- an output that the profile knows as an embedding: those of `contract.embedding`, `embedding.` before each
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.embedding import Embedding, Projection
from contract.postprocess import Array, generated, interpret
from contract.profile import (
    CONFIDENCE,
    MISSING,
    OTHER,
    PREDICTION,
    Feature,
    Profile,
    categorical_feature,
    ordered_feature,
)
from contract.schema import (
    BoxesPostprocess,
    ClassificationPostprocess,
    Column,
    Contract,
    EmbeddingPostprocess,
    GenerationPostprocess,
    ImagePreprocess,
    MaskPostprocess,
    Postprocess,
    Preprocess,
    RegressionPostprocess,
    TablePreprocess,
    TensorPostprocess,
    TensorPreprocess,
    TextPreprocess,
    TokenLabelsPostprocess,
)
from contract.tensor import Tensors

Values = Mapping[str, NDArray[Any]]

# Names of all that `output_values` gives; every other feature but an embedding's is one of the inputs.
OUTPUT_FEATURES = (
    PREDICTION, CONFIDENCE, "entropy", "value", "norm", "spans", "boxes", "foreground", "generated_length"
)  # fmt: skip

_PIXELS_AXIS = 64  # pixels looked at along an axis: enough to rank blur, and independent of the picture's size


def input_values(spec: Preprocess, tensors: Tensors, observed: Values) -> dict[str, NDArray[Any]]:
    """Value of each input feature `[N]`; a category is its index, with the number of categories for an unseen one."""
    match spec:
        case ImagePreprocess():
            return {**_image_values(tensors[spec.tensor]), **observed}
        case TextPreprocess():
            return _text_values(spec, tensors)
        case TablePreprocess():
            rows = tensors[spec.tensor]
            return {f"column.{c.name}": rows[:, i].astype(np.float64) for i, c in enumerate(spec.columns)}
        case TensorPreprocess():
            return _tensor_values(tensors)


def watched(spec: Postprocess, outputs: Tensors) -> Array | None:
    """What `interpret` makes of as much of the outputs as `output_values` looks at: of a mask, a grid of its pixels."""
    if isinstance(spec, MaskPostprocess):
        outputs = {spec.tensor: _grid(outputs[spec.tensor])}
    return interpret(spec, outputs)


def output_values(spec: Postprocess, meaning: Array | None) -> dict[str, NDArray[Any]]:
    """Value of each output feature `[N]`; `prediction` is the index of the label. NaN where the model answered NaN."""
    if meaning is None:
        return {}
    match spec:
        case ClassificationPostprocess():
            with np.errstate(divide="ignore", invalid="ignore"):
                terms = np.where(meaning > 0, meaning * np.log(meaning), meaning)  # 0 log 0 = 0, NaN stays NaN
            predicted = np.where(np.isnan(meaning).any(axis=1), len(spec.labels), meaning.argmax(axis=1))
            return {PREDICTION: predicted, CONFIDENCE: meaning.max(axis=1), "entropy": -terms.sum(axis=1)}
        case RegressionPostprocess():
            return {"value": meaning}
        case EmbeddingPostprocess():
            return {"norm": np.linalg.norm(meaning, axis=1)}
        case TokenLabelsPostprocess():
            named = meaning.argmax(axis=2) != spec.labels.index(spec.outside)
            return {"spans": _known(named.sum(axis=1), meaning), CONFIDENCE: _mean(meaning.max(axis=2))}
        case BoxesPostprocess():
            score = meaning.max(axis=2)
            return {
                "boxes": _known((score >= spec.min_score).sum(axis=1), meaning),
                CONFIDENCE: score.max(axis=1, initial=0.0),
            }
        case MaskPostprocess():
            grid = _grid(meaning)
            foreground = _mean(grid.argmax(axis=1) != 0)
            return {"foreground": _known(foreground, grid), CONFIDENCE: _mean(grid.max(axis=1))}
        case GenerationPostprocess():
            return {"generated_length": generated(spec, meaning).sum(axis=1)}
        case TensorPostprocess():
            return {}


class Observer:
    """Assigns the samples of a batch to the bins of a contract's profile."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self.features: tuple[Feature, ...] = contract.profile.features
        self._lookup = {
            feature.name: feature.lookup(_category_names(contract, feature.name))
            for feature in self.features
            if feature.kind == "categorical"
        }
        embedding = contract.profile.embedding
        self._projection = None if embedding is None else Projection(embedding)

    def embedded(self, outputs: Tensors) -> Array | None:
        """The embedding among a batch's outputs, as `assign` wants it; None where none is watched."""
        return None if self._projection is None else outputs[self._projection.tensor]

    def interpret(self, outputs: Tensors) -> Array | None:
        """What a batch's outputs mean, as `assign` wants it."""
        return watched(self._contract.postprocess, outputs)

    def assign(
        self, tensors: Tensors, observed: Values, meaning: Array | None, embedded: Array | None = None
    ) -> dict[str, NDArray[np.intp]]:
        """Index into its bins `[N]` for every feature that this batch shows."""
        values = input_values(self._contract.preprocess, tensors, observed)
        values |= output_values(self._contract.postprocess, meaning)
        if self._projection is not None and embedded is not None:
            values |= self._projection.values(embedded)
        assigned = {}
        for feature in self.features:
            shown = values.get(feature.name)
            if shown is None:
                continue
            if feature.kind == "categorical":
                assigned[feature.name] = self._lookup[feature.name][shown.astype(np.intp)]
            else:
                assigned[feature.name] = feature.assign(np.asarray(shown, dtype=np.float64))
        return assigned


def build_profile(
    preprocess: Preprocess,
    postprocess: Postprocess,
    tensors: Tensors,
    observed: Values,
    meaning: Array | None,
) -> Profile:
    """The reference profile from M reference samples: their inputs, and what the model made of them."""
    return profile_of(
        preprocess, postprocess, input_values(preprocess, tensors, observed), output_values(postprocess, meaning)
    )


def profile_of(preprocess: Preprocess, postprocess: Postprocess, inputs: Values, outputs: Values) -> Profile:
    """The reference profile from the values `[M]` of every input and output feature."""
    features = []
    for name, values in inputs.items():
        column = _column(preprocess, name)
        if column is None or column.kind == "number":
            features.append(ordered_feature(name, np.asarray(values, dtype=np.float64)))
        else:
            names = _column_names(column)
            features.append(categorical_feature(name, [names[i] for i in values.astype(int)], column.categories))
    for name, values in outputs.items():
        if name == PREDICTION and isinstance(postprocess, ClassificationPostprocess):
            predicted = [postprocess.labels[i] for i in values]
            features.append(categorical_feature(name, predicted, postprocess.labels))
        else:
            features.append(ordered_feature(name, np.asarray(values, dtype=np.float64)))
    return Profile(features=tuple(features))


def embedding_features(embedding: Embedding, vectors: Array) -> tuple[Feature, ...]:
    """What is watched of an output `[M, D]`, its bins filled by M reference samples."""
    return tuple(ordered_feature(name, values) for name, values in Projection(embedding).values(vectors).items())


def _image_values(pixels_NHWC: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    _, height, width, channels = pixels_NHWC.shape
    step_h, step_w = -(-height // _PIXELS_AXIS), -(-width // _PIXELS_AXIS)
    grey = pixels_NHWC[:, ::step_h, ::step_w, 0].astype(np.float32)
    for channel in range(1, channels):
        grey += pixels_NHWC[:, ::step_h, ::step_w, channel]
    grey /= 255.0 * channels
    steps = [np.abs(np.diff(grey, axis=axis)).sum(axis=(1, 2)) for axis in (1, 2)]
    num_steps = 2 * grey.shape[1] * grey.shape[2] - grey.shape[1] - grey.shape[2]
    return {
        "brightness": grey.mean(axis=(1, 2)).astype(np.float64),
        "contrast": grey.std(axis=(1, 2)).astype(np.float64),
        "sharpness": (steps[0] + steps[1]).astype(np.float64) / max(num_steps, 1),
    }


def _grid(values_NKHW: Array) -> Array:
    """At most so many pixels along an axis, evenly spaced; the same again of what is such a grid already."""
    *_, height, width = values_NKHW.shape
    return values_NKHW[..., :: -(-height // _PIXELS_AXIS), :: -(-width // _PIXELS_AXIS)]


def _mean(values: NDArray[Any]) -> NDArray[np.float64]:
    """Mean of each sample `[N]`; 0 of nothing."""
    flat = values.reshape(len(values), -1)
    return np.asarray(flat.sum(axis=1, dtype=np.float64) / max(flat.shape[1], 1))


def _known(values: NDArray[Any], meaning: Array) -> NDArray[np.float64]:
    """The values `[N]`, NaN for samples where anything that they are read from is NaN."""
    return np.where(np.isnan(meaning).any(axis=tuple(range(1, meaning.ndim))), np.nan, values)


def _text_values(spec: TextPreprocess, tensors: Tensors) -> dict[str, NDArray[np.float64]]:
    ids = tensors[spec.ids_tensor]
    real = tensors[spec.mask_tensor] == 1 if spec.mask_tensor is not None else ids != spec.pad_id
    length = real.sum(axis=1).astype(np.float64)
    values = {"length": length}
    if spec.unknown_id is not None:
        values["unknown_ratio"] = ((ids == spec.unknown_id) & real).sum(axis=1) / np.maximum(length, 1)
    return values


def _tensor_values(tensors: Tensors) -> dict[str, NDArray[np.float64]]:
    values = {}
    for name, array in tensors.items():
        if array.dtype.kind in "biuf":
            flat = array.reshape(len(array), -1).astype(np.float64)
            values[f"{name}.mean"], values[f"{name}.std"] = flat.mean(axis=1), flat.std(axis=1)
    return values


def _column(spec: Preprocess, feature: str) -> Column | None:
    if not isinstance(spec, TablePreprocess):
        return None
    return next((c for c in spec.columns if f"column.{c.name}" == feature), None)


def _category_names(contract: Contract, feature: str) -> tuple[str, ...]:
    """Label of each index that a categorical feature's value can have; the last one is the unseen value."""
    column = _column(contract.preprocess, feature)
    if column is not None:
        return _column_names(column)
    if feature == PREDICTION and isinstance(contract.postprocess, ClassificationPostprocess):
        return (*contract.postprocess.labels, MISSING)
    return (OTHER,)


def _column_names(column: Column) -> tuple[str, ...]:
    """The last index is a category that wasn't sent or isn't known: preprocessing makes no difference between them."""
    return (*column.categories, OTHER)
