"""The tensors that a model takes and answers: what every other part of a contract refers to."""

from typing import Literal, Self

from pydantic import Field, model_validator

from contract.document import Document, Label

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
