"""Batch normalisation over the batch of all processes: without it each would see the statistics of its own share.

torch's own SyncBatchNorm needs a GPU; this one is the same mathematics, in two sums, wherever the processes run.
Source: Ioffe & Szegedy 2015, arXiv 1502.03167, algorithm 1.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SynchronisedBatchNorm(_BatchNorm):
    """Batch normalisation whose mean and variance are taken over all processes; their shares are of one size."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's own name
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 axes, got {input.dim()}")

    def forward(self, x_NCX: Tensor) -> Tensor:
        """Normalise `[N, C, ...]` by channel; in evaluation mode as any batch normalisation does."""
        if not self.training:
            return super().forward(x_NCX)
        axes = [0, *range(2, x_NCX.dim())]
        shape = (1, -1, *(1 for _ in axes[1:]))
        x = x_NCX.float()
        size = x.numel() // x.shape[1] * dist.get_world_size()
        mean_C = _total(x.sum(axes)) / size
        centred = x - mean_C.view(shape)
        var_C = _total(centred.square().sum(axes)) / size
        self._remember(mean_C.detach(), var_C.detach() * size / max(1, size - 1))
        normal = centred * torch.rsqrt(var_C + self.eps).view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(x_NCX.dtype)

    def _remember(self, mean_C: Tensor, var_C: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C, rate)
        self.running_var.lerp_(var_C, rate)


def synchronise(network: nn.Module) -> None:
    """Turn a network's batch normalisations into synchronised ones, in place; weights and their names stay."""
    for module in network.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            module.__class__ = SynchronisedBatchNorm


def _total(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    """Sum over the processes; so is the gradient, for every process's loss depends on every process's values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
