"""Mixed precision: matrix products in 16 bits where the hardware gains by it, weights and sums in 32.

Source: Micikevicius et al. 2017, arXiv 1710.03740 (loss scaling for FP16); https://docs.pytorch.org/docs/stable/amp.html
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch.amp.grad_scaler import GradScaler

from training.config import PrecisionName


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """What a run computes in on its device; `dtype` is None for plain FP32."""

    name: str
    device: str
    dtype: torch.dtype | None

    def autocast(self) -> AbstractContextManager[object]:
        """Forward passes and losses belong inside; backward passes don't."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device, self.dtype)

    def scaler(self) -> GradScaler:
        """Keeps small FP16 gradients from becoming 0; does nothing in the other precisions."""
        return GradScaler(self.device, enabled=self.dtype is torch.float16)


def resolve(name: PrecisionName, device: str) -> Precision:
    """The precision of that name on a device, `cpu` or `cuda`."""
    if name == "auto":
        name = "fp32" if device == "cpu" else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    return Precision(name=name, device=device, dtype=dtype)
