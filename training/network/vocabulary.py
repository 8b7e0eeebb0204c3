"""What a network makes of the indices that clients send: an engine reads no table beyond its end, nor below its start.

ONNX Runtime refuses such a request, torch takes -1 for the last row, and TensorRT reads whatever lies there.
"""

import torch
from torch import Tensor


def known(index: Tensor, num: int | Tensor, otherwise: int | Tensor) -> Tensor:
    """The indices from 0 to below `num`; `otherwise` in the place of any other, NaN included."""
    return torch.where((index >= 0) & (index < num), index, otherwise)
