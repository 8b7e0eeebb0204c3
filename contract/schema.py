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

from contract.document import Document, Label
from contract.embedding import check_embedding
from contract.error import ContractInvalid, ContractNotFound
from contract.meaning import (
    BoxesPostprocess,
    ClassificationPostprocess,
    Column,
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
    check_postprocess,
    check_preprocess,
)
from contract.profile import Profile
from contract.spec import AxisRange, Datatype, TensorSpec

__all__ = [
    "CONTRACT_FILE",
    "SCHEMA_VERSION",
    "Artifact",
    "AxisRange",
    "BoxesPostprocess",
    "ClassificationPostprocess",
    "Column",
    "Contract",
    "Datatype",
    "EmbeddingPostprocess",
    "Evaluation",
    "GenerationPostprocess",
    "ImagePreprocess",
    "Label",
    "MaskPostprocess",
    "Metric",
    "ModelName",
    "Postprocess",
    "Preprocess",
    "Provenance",
    "RegressionPostprocess",
    "Sha256",
    "Slo",
    "TablePreprocess",
    "TensorPostprocess",
    "TensorPreprocess",
    "TensorSpec",
    "TextPreprocess",
    "TokenLabelsPostprocess",
    "json_schema",
]

SCHEMA_VERSION: Literal[1] = 1
CONTRACT_FILE = "contract.json"

ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


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
        check_preprocess(self.preprocess, self.inputs)
        check_postprocess(self.postprocess, self.preprocess, self.inputs, self.outputs)
        self._check_embedding()
        return self

    def _check_embedding(self) -> None:
        embedding = self.profile.embedding
        if embedding is None:
            return
        size = check_embedding(embedding.tensor, self.outputs)
        if len(embedding.mean) != size:
            raise ValueError(
                f"the embedding {embedding.tensor!r} has {size} dimensions, its profile {len(embedding.mean)}"
            )

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
