"""What a user may say about a model: everything that its file can't be asked for, and what overrides what was found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from contract.schema import AxisRange, ModelName, Slo
from training.importer.error import ImportRefused
from training.importer.image import Pixels

_NAME: TypeAdapter[str] = TypeAdapter(ModelName)
SLO = Slo(latency_threshold_ms=100, latency_objective=0.99, availability_objective=0.999)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """`pixels` is there for an image model; `axes` holds ranges by the axis' name; `output` names what is interpreted.

    `samples` are `.npz` files, or image files and folders of them for an image model.
    """

    name: str
    task: str | None = None
    description: str = ""
    labels: tuple[str, ...] = ()
    output: str | None = None
    pixels: Pixels | None = None
    batch: AxisRange = field(default_factory=lambda: AxisRange(min=1, opt=8, max=32))
    axes: Mapping[str, AxisRange] = field(default_factory=dict)
    samples: tuple[Path, ...] = ()
    slo: Slo = SLO

    def __post_init__(self) -> None:
        """Refuse a name that no model can have, before it names a folder."""
        try:
            _NAME.validate_python(self.name)
        except ValidationError:
            raise ImportRefused(
                f"expected a name of lower-case letters, digits, - and _, at most 63 of them, got {self.name!r:.80}"
            ) from None
