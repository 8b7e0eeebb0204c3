"""The processes that train one network together, so that they end where one process would.

Every process knows the whole batch's order and takes its own share of it; gradients, batch statistics, losses and
scores are means over all shares. One process alone is a group too, and then nothing here does anything.
Sources: https://docs.pytorch.org/docs/stable/notes/ddp.html, https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from training.synchronised import synchronise


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """One process among the `size` that train together; torch's default process group is theirs."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes what all of them have made."""
        return self.rank == 0

    def mean(self, values: Sequence[float]) -> list[float]:
        """Means over the processes, one a value."""
        return [total / self.size for total in self.sum(values)]

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over the processes, one a value."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor]

    def first_says(self, flag: bool) -> bool:
        """What the first process decides, for a decision that depends on a clock."""
        return flag if self.size == 1 else self.sum([float(flag and self.is_first)])[0] > 0

    def joined(self, network: nn.Module, device: str, *, sharded: bool) -> nn.Module:
        """What to call instead of the network, whose parameters then get the mean gradient.

        With `sharded` the network's own parameters are spread over the processes from here on.
        """
        if self.size == 1:
            return network
        synchronise(network)
        if not sharded:
            return DistributedDataParallel(network, forward_sync_buffers=False, gradient_as_bucket_view=True)
        mesh = init_device_mesh(device, (self.size,))
        for unit in (*_units(network), network):
            fully_shard(unit, mesh=mesh)
        return network


def accumulating(joined: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """For every part of a batch's share: gradients travel between the processes with the last one only."""
    if isinstance(joined, FSDPModule):
        joined.set_requires_gradient_sync(last)
    elif isinstance(joined, DistributedDataParallel) and not last:
        return joined.no_sync()
    return nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """The tensor that is spread over the processes, or any other as it is; all processes call it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_like(value: Tensor, parameter: Tensor) -> Tensor:
    """The value spread as the parameter is, where that is spread and the two are of one shape."""
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value


def _units(module: nn.Module) -> Iterator[nn.Module]:
    """The parts that are gathered one after the other: the items of a network's outermost lists of modules."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            yield from (item for item in child if any(True for _ in item.parameters()))
        else:
            yield from _units(child)
