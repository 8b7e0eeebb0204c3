"""What a model version promises: the models behind `contract.json`.

Everything else about a version is derived from these: Triton's `config.pbtxt`, the TensorRT optimization profile, the
gateway's endpoint, the drift counters, the rules and the dashboards. A contract is written once, by training, and
never changed afterwards.
"""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, StringConstraints, ValidationError, model_validator

from contract.document import Document
from contract.error import ContractInvalid, ContractNotFound
from contract.profile import MISSING, OTHER, Profile

SCHEMA_VERSION: Literal[1] = 1
CONTRACT_FILE = "contract.json"

ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
# Labels and categories become label values in Prometheus: never empty, never long.
Label = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "BF16", "FP32", "FP64", "BYTES",
]  # fmt: skip


class AxisRange(Document):
    """Bounds of an axis whose length varies; `opt` is the length that engines are tuned for."""

    min: int = Field(ge=1)
    opt: int = Field(ge=1)
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"expected min <= opt <= max, got {self.min}, {self.opt}, {self.max}")
        return self


class TensorSpec(Document):
    """One tensor of the model. `shape` is per sample, without the batch axis; -1 marks a dynamic axis.

    `ranges` holds one range for each -1, in order; outputs may leave it empty. NaN and infinity in an input are refused
    unless `allow_nan` says that the model takes NaN for a missing value.
    """

    name: Label
    datatype: Datatype
    shape: tuple[int, ...]
    ranges: tuple[AxisRange, ...] = ()
    allow_nan: bool = False

    @model_validator(mode="after")
    def _axes_fit(self) -> Self:
        if any(axis != -1 and axis < 1 for axis in self.shape):
            raise ValueError(f"tensor {self.name}: axes are positive, or -1 for dynamic, got {list(self.shape)}")
        dynamic = self.shape.count(-1)
        if self.ranges and len(self.ranges) != dynamic:
            raise ValueError(f"tensor {self.name}: {dynamic} dynamic axes but {len(self.ranges)} ranges")
        return self

    @property
    def wire_shape(self) -> tuple[int, ...]:
        """Shape of a sample on the wire: a scalar travels as one element, for Triton knows no tensor without axes."""
        return self.shape or (1,)

    def bounds(self) -> tuple[AxisRange, ...]:
        """Range of every axis of a sample; a fixed axis has min = opt = max."""
        ranges = iter(self.ranges)
        return tuple(next(ranges) if a == -1 else AxisRange(min=a, opt=a, max=a) for a in self.shape)


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


class TensorPostprocess(Document):
    """The model's output tensors as they are."""

    kind: Literal["tensor"] = "tensor"


Postprocess = Annotated[
    ClassificationPostprocess | RegressionPostprocess | EmbeddingPostprocess | TensorPostprocess,
    Field(discriminator="kind"),
]


class Slo(Document):
    """Service-level objectives: the share of requests answered within the threshold, and answered at all."""

    latency_threshold_ms: float = Field(gt=0)
    latency_objective: float = Field(gt=0, lt=1)
    availability_objective: float = Field(gt=0, lt=1)


class Metric(Document):
    """A measured quality with its 95 % interval over `num_samples` samples."""

    name: str
    value: float
    low: float
    high: float
    num_samples: int = Field(ge=1)


class Evaluation(Document):
    """How good the version was on data that training never saw; no metrics where nobody measured it."""

    dataset: str
    split: str
    metrics: tuple[Metric, ...]

    @property
    def measured(self) -> bool:
        """Whether there is any figure."""
        return bool(self.metrics)

    def metric(self, name: str) -> Metric:
        """The metric of that name; KeyError when it wasn't measured."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)


class Provenance(Document):
    """Where the version comes from, as far as a person needs to make it again.

    `flops_per_sample` is 0 where nobody counted them, as in an imported graph.
    """

    created_at: str
    git_revision: str
    libraries: dict[str, str]
    seed: int
    data_sha256: Sha256
    config: dict[str, JsonValue]
    num_parameters: int = Field(ge=0)
    flops_per_sample: int = Field(ge=0)
    training_time_s: float = Field(ge=0)


class Artifact(Document):
    """A file of the version: its path below the version's folder, and its digest."""

    path: str
    role: Literal["model", "golden", "engine", "passport", "tokenizer", "report"]
    sha256: Sha256
    size_bytes: int = Field(ge=0)

    @model_validator(mode="after")
    def _stays_inside(self) -> Self:
        path = PurePosixPath(self.path)
        if path.is_absolute() or ".." in path.parts or "\\" in self.path or not path.parts:
            raise ValueError(f"artifact path {self.path!r} must stay below the version's folder")
        return self


class Contract(Document):
    """The promise of one model version.

    `batched` says whether the graph's tensors have a batch axis in front. Without one, a request is one sample, its
    tensors have the shapes of the specs and nothing more, and `batch` is 1. `takes_zeros` says whether an input of
    zeros is answered, for that is what a version is warmed up with.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: ModelName
    version: int = Field(ge=1)
    task: str = Field(min_length=1)
    description: str = ""
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    batch: AxisRange
    batched: bool = True
    takes_zeros: bool = True
    preprocess: Preprocess
    postprocess: Postprocess
    slo: Slo
    profile: Profile
    evaluation: Evaluation
    provenance: Provenance
    artifacts: tuple[Artifact, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for kind, specs in (("input", self.inputs), ("output", self.outputs)):
            names = [spec.name for spec in specs]
            if len(set(names)) != len(names):
                raise ValueError(f"two {kind}s share a name: {names}")
        for spec in self.inputs:
            if spec.shape.count(-1) != len(spec.ranges):
                raise ValueError(f"input {spec.name}: every dynamic axis needs a range")
        if not self.batched and self.batch.max != 1:
            raise ValueError(f"a model without a batch axis takes one sample a request, got batch.max {self.batch.max}")
        _check_preprocess(self)
        _check_postprocess(self)
        return self

    @property
    def batch_axis(self) -> AxisRange | None:
        """Bounds of the batch axis in front of every tensor; None for a model that has none."""
        return self.batch if self.batched else None

    def input(self, name: str) -> TensorSpec:
        """The input of that name; KeyError when there is none."""
        return _by_name(self.inputs, name)

    def output(self, name: str) -> TensorSpec:
        """The output of that name; KeyError when there is none."""
        return _by_name(self.outputs, name)

    def artifact(self, role: str) -> Artifact | None:
        """The first artifact with that role."""
        return next((a for a in self.artifacts if a.role == role), None)

    def save(self, version_dir: Path) -> Path:
        """Write `contract.json` into a version's folder that isn't published yet."""
        path = version_dir / CONTRACT_FILE
        path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, version_dir: Path) -> "Contract":
        """Read and validate the contract in a version's folder.

        Raises ContractNotFound when there is none, ContractInvalid when it isn't one or isn't this folder's.
        """
        where = f"{version_dir.parent.name}/{version_dir.name}/{CONTRACT_FILE}"
        try:
            text = (version_dir / CONTRACT_FILE).read_bytes()
        except FileNotFoundError:
            raise ContractNotFound(f"{where} doesn't exist") from None
        except OSError as exc:
            raise ContractInvalid(f"{where} can't be read: {exc.strerror}") from exc
        try:
            contract = cls.model_validate_json(text)
        except ValidationError as exc:
            first = exc.errors()[0]
            at = ".".join(str(part) for part in first["loc"]) or "the document"
            raise ContractInvalid(f"{where} is not a valid contract: {at}: {first['msg']}") from exc
        if (contract.name, str(contract.version)) != (version_dir.parent.name, version_dir.name):
            raise ContractInvalid(f"{where} is the contract of {contract.name} version {contract.version}")
        return contract


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of `contract.json`."""
    schema = Contract.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.loads(json.dumps(schema))  # type: ignore[no-any-return]


def _by_name(specs: Sequence[TensorSpec], name: str) -> TensorSpec:
    for spec in specs:
        if spec.name == name:
            return spec
    raise KeyError(name)


def _check_labels(what: str, labels: Sequence[str]) -> None:
    if len(set(labels)) != len(labels):
        raise ValueError(f"{what} must differ from one another")
    if taken := {OTHER, MISSING} & set(labels):
        raise ValueError(f"{what} must not hold {sorted(taken)}: the profile has bins of these names; rename them")


def _check_preprocess(contract: Contract) -> None:
    inputs = {spec.name: spec for spec in contract.inputs}
    match contract.preprocess:
        case ImagePreprocess() as image:
            expected = TensorSpec(
                name=image.tensor, datatype="UINT8", shape=(image.height, image.width, image.channels)
            )
            if inputs.get(image.tensor) != expected:
                raise ValueError(
                    f"image preprocessing makes {expected.datatype} {list(expected.shape)} for {image.tensor!r}; "
                    "the model has no such input"
                )
        case TextPreprocess() as text:
            for name in filter(None, (text.ids_tensor, text.mask_tensor)):
                if name not in inputs or inputs[name].datatype not in ("INT32", "INT64"):
                    raise ValueError(f"text preprocessing needs an INT32 or INT64 input {name!r}")
        case TablePreprocess() as table:
            nan = any(column.kind == "number" and not column.required for column in table.columns)
            width = len(table.columns)
            expected = TensorSpec(name=table.tensor, datatype="FP32", shape=(width,), allow_nan=nan)
            if inputs.get(table.tensor) != expected:
                raise ValueError(f"table preprocessing needs the input {expected.model_dump_json()}")
        case TensorPreprocess():
            pass


def _check_postprocess(contract: Contract) -> None:
    post = contract.postprocess
    if isinstance(post, TensorPostprocess):
        return
    spec = next((spec for spec in contract.outputs if spec.name == post.tensor), None)
    if spec is None:
        raise ValueError(f"postprocessing reads output {post.tensor!r}; the model has no such output")
    if isinstance(post, ClassificationPostprocess) and spec.shape != (len(post.labels),):
        raise ValueError(f"{len(post.labels)} labels but output {post.tensor!r} has shape {list(spec.shape)}")
