"""What a compiled engine was built from and for. Whoever loads an engine reads its passport first.

An engine is bound to the TensorRT version and the GPU architecture it was built for, and deserializing one executes
what it holds: so its digest and its fit are checked before any of its bytes reach TensorRT.
"""

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from contract.agreement import CHANGED_TOLERANCE, TOLERANCE, Precision
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
    """Identity and origin of one engine file.

    `max_error` and `changed_ratio` are those of contract.agreement, of the engine against its graph; None until an
    engine has run beside it.
    """

    engine: str
    engine_sha256: Sha256
    engine_size_bytes: int = Field(ge=1)
    onnx_sha256: Sha256
    builder: Literal["tensorrt", "tensorrt-rtx"]
    builder_version: str
    cuda_version: str | None = None
    driver_version: str | None = None
    compute_capabilities: tuple[str, ...] = Field(min_length=1)
    precision: Precision = "FP32"
    profile: tuple[InputProfile, ...] = Field(min_length=1)
    max_error: float | None = Field(default=None, ge=0)
    changed_ratio: float | None = Field(default=None, ge=0, le=1)
    created_at: str
    build_time_s: float = Field(ge=0)

    @property
    def triton_loadable(self) -> bool:
        """Whether Triton's `tensorrt_plan` platform can load it: engines of TensorRT-RTX it can't."""
        return self.builder == "tensorrt"

    @property
    def targets(self) -> str:
        """What it was built for: `sm_80, sm_86`."""
        return ", ".join(f"sm_{cc.replace('.', '')}" for cc in self.compute_capabilities)

    def doubt(self) -> str | None:
        """One sentence that says why clients shouldn't be answered by it although it may load; None when they may."""
        if self.max_error is None:
            return f"{self.engine} was never run beside its graph, so nothing says that it answers the same"
        allowed = TOLERANCE.get(self.precision)
        if allowed is not None and self.max_error > allowed:
            return f"{self.engine} strays by {self.max_error:.1e} from its graph; {self.precision} may by {allowed:g}"
        if allowed is None and self.changed_ratio is None:
            return f"{self.engine} is INT8, which is judged by what is answered, and its model decides nothing"
        if self.changed_ratio is not None and self.changed_ratio > CHANGED_TOLERANCE[self.precision]:
            return (
                f"{self.engine} changes {self.changed_ratio:.1%} of what its graph answers; "
                f"{self.precision} may change {CHANGED_TOLERANCE[self.precision]:.0%}"
            )
        return None

    def misfit(self, builder: str, builder_version: str, compute_capability: str) -> str | None:
        """One sentence that says why the engine doesn't run on such a node, or None when it does."""
        if self.builder != builder:
            return f"built with {self.builder}; this node runs {builder}"
        same_version = _minor(self.builder_version) == _minor(builder_version)
        if same_version and compute_capability in self.compute_capabilities:
            return None
        return (
            f"built for {self.targets} with {self.builder} {self.builder_version}; "
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

    def read_engine(self, version_dir: Path) -> bytes:
        """The engine's bytes, which are the ones this passport is for; DigestMismatch when they aren't.

        Whoever deserializes an engine takes these: a file read again later could be another one.
        """
        engine = (version_dir / Path(self.engine).name).read_bytes()
        if hashlib.sha256(engine).hexdigest() != self.engine_sha256:
            raise DigestMismatch(f"{self.engine} is not the engine its passport was written for")
        return engine


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
