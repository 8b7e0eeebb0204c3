"""What a recipe's network is and needs, before it is trained: parameters, operations, memory, and the time of a run.

Nothing is guessed from the architecture. Operations are counted by torch.utils.flop_counter; activations are the
tensors that autograd saves for the backward pass (torch.autograd.graph.saved_tensors_hooks); the optimizer's state is
what it wrote into a checkpoint; and the time comes from steps of the ordinary training loop.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from training import precision
from training.augmentation import augmented
from training.checkpoint import Epoch, Progress
from training.data import Dataset, Split
from training.forward import as_tuple
from training.interval import mean
from training.learner import Samples
from training.loop import train
from training.provenance import flops
from training.recipe import Recipe
from training.run_folder import Run
from training.start import freeze, set_training
from training.stopping import num_steps

NUM_STEPS = 40
_NUM_WARMUP = 5  # the first steps allocate memory and choose kernels
_NUM_VALIDATION = 1_000  # samples; the rest of the split takes as long for each


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes that a training step holds between its forward and its backward pass.

    The backward pass needs more for a moment: gradients of the activations, workspaces of kernels, the allocator's
    waste. Measured on a residual network: a third more.
    """

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of them together."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes + self.activations_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Duration:
    """Seconds that a whole run would take on this machine, with a 95 % interval.

    The interval is of the measured steps' scatter alone: another load on the machine moves all of it.
    """

    value_s: float
    low_s: float
    high_s: float
    num_steps: int
    num_measured: int
    device: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A network's size. `flops_per_sample` are of one forward pass, a multiply and an add being two."""

    num_parameters: int
    num_trainable: int
    flops_per_sample: int
    batch_size: int
    memory: Memory
    duration: Duration


def measure(
    recipe: Recipe, dataset: Dataset, *, num_measured: int = NUM_STEPS, clock: Callable[[], float] = time.monotonic
) -> Size:
    """Measure a recipe's network on its own data; trains `num_measured` steps in a folder that is thrown away.

    Raises Diverged when the loss stops being a number within them.
    """
    config = recipe.config
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = recipe.network().to(device)
    freeze(network, recipe.frozen)
    batch = dataset.train.take(slice(config.batch_size))
    one = {name: array[:1] for name, array in batch.inputs.items()}
    parameters = list(network.parameters())
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    duration, optimizer_bytes = _trial(recipe, dataset, device, num_measured, clock)
    return Size(
        num_parameters=sum(parameter.numel() for parameter in parameters),
        num_trainable=sum(parameter.numel() for parameter in trainable),
        flops_per_sample=flops(network, one, recipe.inputs),
        batch_size=config.batch_size,
        memory=Memory(
            weights_bytes=_nbytes(network.state_dict().values()),
            gradients_bytes=_nbytes(trainable),
            optimizer_bytes=optimizer_bytes,
            activations_bytes=_activations(recipe, network, batch, device),
        ),
        duration=duration,
    )


class _Stopwatch:
    """A Watcher that notes when training began and each step was done, and when the epoch's validation was."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.stepped_at: list[float] = []
        self.validated_at = math.nan

    def began(self, progress: Progress, num_steps: int, steps_per_epoch: int, /) -> None:
        """Note the time."""
        self.stepped_at.append(self._clock())

    def stepped(self, progress: Progress, /) -> None:
        """Note the time."""
        self.stepped_at.append(self._clock())

    def ended_epoch(self, epoch: Epoch, /) -> None:
        """Note the time."""
        self.validated_at = self._clock()


def _trial(
    recipe: Recipe, dataset: Dataset, device: str, num_measured: int, clock: Callable[[], float]
) -> tuple[Duration, int]:
    """The duration of a run by that of its first steps, and the bytes of the optimizer's state after them."""
    config = recipe.config
    total, _ = num_steps(config, len(dataset.train))
    few = replace(
        dataset.limited((_NUM_WARMUP + num_measured + 1) * config.batch_size),
        validation=dataset.validation.take(slice(_NUM_VALIDATION)),
    )
    short = replace(recipe, config=replace(config, epochs=1, num_train=len(few.train)))
    stopwatch = _Stopwatch(clock)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(folder=Path(folder), num_threads=torch.get_num_threads(), device=device)
        train(short, few, run, stopwatch, checkpoint_interval_s=math.inf)
        optimizer_bytes = _optimizer_bytes(run.checkpoint)
    took = np.diff(stopwatch.stepped_at)
    # The last step is left out too, for it has a closer look at the layers; of a tiny data set it is all there is.
    counted = took[_NUM_WARMUP:-1] if len(took) > _NUM_WARMUP + 1 else took[-1:]
    step = mean("step", counted)
    fastest_s = float(counted.min())  # on a busy machine the steps scatter so much that their mean's interval passes 0
    validation_s = (stopwatch.validated_at - stopwatch.stepped_at[-1]) * len(dataset.validation) / len(few.validation)
    bounds = step.value, max(step.low, fastest_s), step.high
    value_s, low_s, high_s = (total * part + config.epochs * validation_s for part in bounds)
    duration = Duration(
        value_s=value_s, low_s=low_s, high_s=high_s, num_steps=total, num_measured=step.num_samples, device=device
    )
    return duration, optimizer_bytes


def _optimizer_bytes(checkpoint: Path) -> int:
    with safe_open(checkpoint, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith("optimizer.")]  # noqa: SIM118 - the file is no mapping
        return _nbytes(file.get_tensor(name) for name in names)


def _activations(recipe: Recipe, network: nn.Module, batch: Split, device: str) -> int:
    """Bytes that autograd keeps between the forward and the backward pass of one part of a batch."""
    part = Samples.of(batch.take(slice(recipe.config.batch_size // recipe.config.accumulation)), recipe)
    part = part.batch(slice(None), device)
    parameters = {tensor.untyped_storage().data_ptr() for tensor in network.parameters()}
    kept: dict[int, Tensor] = {}  # by storage, which views share; held, so that no address is given out twice

    def keep(tensor: Tensor) -> Tensor:
        if (address := tensor.untyped_storage().data_ptr()) not in parameters:
            kept[address] = tensor
        return tensor

    set_training(network)
    autocast = precision.resolve(recipe.config.precision, device).autocast()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        inputs, targets = augmented(recipe.augment, part.inputs, part.targets)
        recipe.objective.loss(as_tuple(network(*inputs)), targets)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
