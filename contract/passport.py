"""What a compiled engine was built from and for. Whoever loads an engine reads its passport first.

An engine is bound to the TensorRT version and the GPU architecture it was built for, and deserializing one executes
what it holds: so its digest and its fit are checked before any of its bytes reach TensorRT.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from contract.digest import sha256_of
from contract.document import Document
from contract.error import ContractInvalid, ContractNotFound, DigestMismatch
from contract.schema import AxisRange, Sha256

PASSPORT_FILE = "passport.json"


class InputProfile(Document):
    """The optimization profile of one input: a range for each axis, the batch axis first."""

    name: str
    axes: tuple[AxisRange, ...]


class Passport(Document):
    """Identity and origin of one engine file."""

    engine: str
    engine_sha256: Sha256
    engine_size_bytes: int = Field(ge=1)
    onnx_sha256: Sha256
    builder: Literal["tensorrt", "tensorrt-rtx"]
    builder_version: str
    cuda_version: str | None = None
    driver_version: str | None = None
    compute_capabilities: tuple[str, ...] = Field(min_length=1)
    precision: Literal["FP32", "FP16", "INT8"] = "FP32"
    profile: tuple[InputProfile, ...] = Field(min_length=1)
    max_error: float | None = None
    created_at: str
    build_time_s: float = Field(ge=0)

    @property
    def triton_loadable(self) -> bool:
        """Whether Triton's `tensorrt_plan` platform can load it: engines of TensorRT-RTX it can't."""
        return self.builder == "tensorrt"

    def misfit(self, builder: str, builder_version: str, compute_capability: str) -> str | None:
        """One sentence that says why the engine doesn't run on such a node, or None when it does."""
        if self.builder != builder:
            return f"built with {self.builder}; this node runs {builder}"
        same_version = _minor(self.builder_version) == _minor(builder_version)
        if same_version and compute_capability in self.compute_capabilities:
            return None
        built_for = ", ".join(f"sm_{cc.replace('.', '')}" for cc in self.compute_capabilities)
        return (
            f"built for {built_for} with {self.builder} {self.builder_version}; "
            f"this node is sm_{compute_capability.replace('.', '')} with {builder} {builder_version}"
        )

    def save(self, version_dir: Path) -> Path:
        """Write `passport.json` beside the engine."""
        path = version_dir / PASSPORT_FILE
        path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, version_dir: Path) -> "Passport":
        """Read the passport and hold the engine's digest against it, without deserializing the engine.

        Raises ContractNotFound, ContractInvalid or DigestMismatch.
        """
        where = f"{version_dir.parent.name}/{version_dir.name}"
        try:
            passport = cls.model_validate_json((version_dir / PASSPORT_FILE).read_bytes())
        except FileNotFoundError:
            raise ContractNotFound(f"{where} has no {PASSPORT_FILE}") from None
        except ValidationError as exc:
            raise ContractInvalid(f"{where}/{PASSPORT_FILE} is not a valid passport: {exc.errors()[0]['msg']}") from exc
        engine = version_dir / Path(passport.engine).name
        if not engine.is_file() or sha256_of(engine) != passport.engine_sha256:
            raise DigestMismatch(f"{where}/{passport.engine} is not the engine its passport was written for")
        return passport


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
