"""What a model's tensors mean: how they are made of what a client sends, and what is read out of the answer.

A new kind of question or answer is a document here, its check at the end of this module, and a case in each place that
looks at kinds: `contract.postprocess`, `contract.answer`, `contract.observation` and `gateway.schema`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from contract.document import Document, Label
from contract.profile import MISSING, OTHER
from contract.spec import TensorSpec

_INTEGERS = ("INT32", "INT64")
_FLOATS = ("FP16", "FP32", "FP64")


class ImagePreprocess(Document):
    """Decode to `UINT8` `[height, width, channels]`. Scaling and normalisation are in the model's graph.

    `resize`: `stretch` ignores the aspect ratio; `crop` scales the shorter side to size / crop_ratio and cuts the
    centre out; `pad` scales the longer side and fills the rest with `background`.
    """

    kind: Literal["image"] = "image"
    tensor: str
    mode: Literal["L", "RGB"]
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    crop_ratio: float = Field(default=1.0, gt=0, le=1)
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    background: int = Field(default=0, ge=0, le=255)
    max_pixels: int = Field(default=50_000_000, ge=1)

    @property
    def channels(self) -> int:
        """Channels of the decoded image."""
        return 1 if self.mode == "L" else 3


class TextPreprocess(Document):
    """Tokenize to integer ids and, where the model takes one, an attention mask; both `[length]`."""

    kind: Literal["text"] = "text"
    tokenizer: str
    ids_tensor: str
    mask_tensor: str | None = None
    max_length: int = Field(ge=1)
    pad_id: int = Field(default=0, ge=0)
    unknown_id: int | None = None


class Column(Document):
    """A column of a table row: a number, or one of `categories` (sent as its index; the last index + 1 is unseen)."""

    name: Label
    kind: Literal["number", "category"]
    categories: tuple[Label, ...] = ()
    required: bool = True

    @model_validator(mode="after")
    def _categories_fit(self) -> Self:
        if (self.kind == "category") != bool(self.categories):
            raise ValueError(f"column {self.name}: categories belong to columns of kind category, and only there")
        _check_labels(f"column {self.name}: categories", self.categories)
        return self


class TablePreprocess(Document):
    """Turn a row into one `FP32` vector `[columns]`; a missing number is NaN, a missing category its unseen index."""

    kind: Literal["table"] = "table"
    tensor: str
    columns: tuple[Column, ...] = Field(min_length=1)


class TensorPreprocess(Document):
    """The client sends the model's tensors as they are."""

    kind: Literal["tensor"] = "tensor"


Preprocess = Annotated[
    ImagePreprocess | TextPreprocess | TablePreprocess | TensorPreprocess, Field(discriminator="kind")
]


class ClassificationPostprocess(Document):
    """Scores `[labels]` to the `top_k` labels. `activation` turns the model's output into probabilities."""

    kind: Literal["classification"] = "classification"
    tensor: str
    labels: tuple[Label, ...] = Field(min_length=2)
    top_k: int = Field(default=5, ge=1)
    activation: Literal["softmax", "identity"] = "softmax"

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        _check_labels("labels", self.labels)
        return self


class RegressionPostprocess(Document):
    """One number a sample, `value = output * scale + offset`, in `unit`."""

    kind: Literal["regression"] = "regression"
    tensor: str
    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""


class EmbeddingPostprocess(Document):
    """A vector a sample, divided by its Euclidean length when `normalize` is set."""

    kind: Literal["embedding"] = "embedding"
    tensor: str
    normalize: bool = True


class TokenLabelsPostprocess(Document):
    """Scores `[length, labels]` of every token of a text to spans of its characters.

    Labels are tags: with BIO prefixes, `B-` where a span begins and `I-` where it goes on, or plain, where neighbours
    of one label are one span. `outside` is the tag that means nothing; the graph answers it for padding and for tokens
    that stand for no text.
    """

    kind: Literal["token_labels"] = "token_labels"
    tensor: str
    labels: tuple[Label, ...] = Field(min_length=2)
    outside: Label

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        _check_distinct("labels", self.labels)
        if self.outside not in self.labels:
            raise ValueError(f"expected one of the labels as outside, got {self.outside!r}")
        return self

    @property
    def span_labels(self) -> tuple[str, ...]:
        """What a span can be called: the tags without their prefixes, each once."""
        return tuple(dict.fromkeys(split_tag(tag)[1] for tag in self.labels if tag != self.outside))


class BoxesPostprocess(Document):
    """Boxes `[Q, 4]` and the probabilities `[Q, labels]` of what is in them to boxes on the picture that was sent.

    A box is x1, y1, x2, y2 in shares (0 to 1) of the model's input picture. Its label is its most probable one, and
    what is less probable than `min_score` is no box. Non-maximum suppression is in the graph.
    """

    kind: Literal["boxes"] = "boxes"
    boxes_tensor: str
    scores_tensor: str
    labels: tuple[Label, ...] = Field(min_length=1)
    min_score: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        _check_distinct("labels", self.labels)
        return self


class MaskPostprocess(Document):
    """Logits `[labels, height, width]` of every pixel to a label a pixel; `labels[0]` is the background."""

    kind: Literal["mask"] = "mask"
    tensor: str
    labels: tuple[Label, ...] = Field(min_length=2, max_length=256)  # one byte a pixel

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        _check_distinct("labels", self.labels)
        return self


class GenerationPostprocess(Document):
    """Token ids `[length]` that the graph generated to text, up to the first `end_id`.

    Only what was generated: neither the prompt nor the token that a decoder starts from. `tokenizer` is the file in the
    version's folder that turns ids back into text; `pad_id` is no part of it wherever it stands.
    """

    kind: Literal["generation"] = "generation"
    tensor: str
    tokenizer: str
    end_id: int = Field(ge=0)
    pad_id: int = Field(ge=0)


class TensorPostprocess(Document):
    """The model's output tensors as they are."""

    kind: Literal["tensor"] = "tensor"


Postprocess = Annotated[
    ClassificationPostprocess
    | RegressionPostprocess
    | EmbeddingPostprocess
    | TokenLabelsPostprocess
    | BoxesPostprocess
    | MaskPostprocess
    | GenerationPostprocess
    | TensorPostprocess,
    Field(discriminator="kind"),
]


def split_tag(tag: str) -> tuple[str, str]:
    """A tag's prefix, `B`, `I` or none, and its label."""
    prefix, dash, label = tag.partition("-")
    return (prefix, label) if prefix in ("B", "I") and dash and label else ("", tag)


def check_preprocess(preprocess: Preprocess, inputs: Sequence[TensorSpec]) -> None:
    """Raise ValueError unless the model takes what preprocessing makes."""
    specs = {spec.name: spec for spec in inputs}
    match preprocess:
        case ImagePreprocess() as image:
            expected = TensorSpec(
                name=image.tensor, datatype="UINT8", shape=(image.height, image.width, image.channels)
            )
            if specs.get(image.tensor) != expected:
                raise ValueError(
                    f"image preprocessing makes {expected.datatype} {list(expected.shape)} for {image.tensor!r}; "
                    "the model has no such input"
                )
        case TextPreprocess() as text:
            for name in filter(None, (text.ids_tensor, text.mask_tensor)):
                if name not in specs or specs[name].datatype not in _INTEGERS:
                    raise ValueError(f"text preprocessing needs an INT32 or INT64 input {name!r}")
        case TablePreprocess() as table:
            nan = any(column.kind == "number" and not column.required for column in table.columns)
            width = len(table.columns)
            expected = TensorSpec(name=table.tensor, datatype="FP32", shape=(width,), allow_nan=nan)
            if specs.get(table.tensor) != expected:
                raise ValueError(f"table preprocessing needs the input {expected.model_dump_json()}")
        case TensorPreprocess():
            pass


def check_postprocess(
    postprocess: Postprocess, preprocess: Preprocess, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Raise ValueError unless the model answers what is read out of it, and is asked what the answer is about."""
    specs = {spec.name: spec for spec in outputs}
    match postprocess:
        case TensorPostprocess():
            pass
        case ClassificationPostprocess() as post:
            spec = _read(specs, post.tensor)
            if spec.shape != (len(post.labels),):
                raise ValueError(f"{len(post.labels)} labels but output {post.tensor!r} has shape {list(spec.shape)}")
        case RegressionPostprocess() | EmbeddingPostprocess() as post:
            _read(specs, post.tensor)
        case TokenLabelsPostprocess() as post:
            if not isinstance(preprocess, TextPreprocess):
                raise ValueError(f"token labels are of a text: expected text preprocessing, got {preprocess.kind!r}")
            length = next(spec.shape for spec in inputs if spec.name == preprocess.ids_tensor)
            _check_output(specs, post.tensor, _FLOATS, (*length, len(post.labels)))
        case BoxesPostprocess() as post:
            _check_image(preprocess, "boxes")
            num_boxes = _check_output(specs, post.boxes_tensor, ("FP32",), ("boxes", 4)).shape[0]
            _check_output(specs, post.scores_tensor, _FLOATS, (num_boxes, len(post.labels)))
        case MaskPostprocess() as post:
            _check_image(preprocess, "the pixels of a mask")
            _check_output(specs, post.tensor, ("FP32",), (len(post.labels), "height", "width"))
        case GenerationPostprocess() as post:
            _check_output(specs, post.tensor, _INTEGERS, ("length",))


def _read(specs: Mapping[str, TensorSpec], name: str) -> TensorSpec:
    if name not in specs:
        raise ValueError(f"postprocessing reads output {name!r}; the model has no such output")
    return specs[name]


def _check_output(
    specs: Mapping[str, TensorSpec], name: str, datatypes: Sequence[str], shape: tuple[int | str, ...]
) -> TensorSpec:
    """The output of that name; an axis that is given by a word may have any length."""
    spec = _read(specs, name)
    fits = len(spec.shape) == len(shape) and all(
        isinstance(expected, str) or expected == axis for expected, axis in zip(shape, spec.shape, strict=True)
    )
    if spec.datatype not in datatypes or not fits:
        raise ValueError(
            f"output {name!r} is expected as {' or '.join(datatypes)} [{', '.join(map(str, shape))}], "
            f"got {spec.datatype} {list(spec.shape)}"
        )
    return spec


def _check_image(preprocess: Preprocess, what: str) -> None:
    if not isinstance(preprocess, ImagePreprocess):
        raise ValueError(f"{what} lie on a picture: expected image preprocessing, got {preprocess.kind!r}")


def _check_labels(what: str, labels: Sequence[str]) -> None:
    _check_distinct(what, labels)
    if taken := {OTHER, MISSING} & set(labels):
        raise ValueError(f"{what} must not hold {sorted(taken)}: the profile has bins of these names; rename them")


def _check_distinct(what: str, labels: Sequence[str]) -> None:
    if len(set(labels)) != len(labels):
        raise ValueError(f"{what} must differ from one another")
