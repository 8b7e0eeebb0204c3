"""The training loop: killed at any moment and started again, it ends with the same bits as if it hadn't been.

What a step does is a function of the weights, the optimizer's state and the step's number: the order of the data
follows from (seed, epoch), whatever is random inside a step from (seed, step), the learning rate from the step. So a
checkpoint may be taken after any step, and it is: by the clock, and at every epoch's end.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from training import checkpoint
from training.checkpoint import Epoch, Progress
from training.config import TrainConfig
from training.data import Dataset, Split
from training.error import Diverged
from training.forward import BATCH_SIZE, as_tuple, tensors_of
from training.recipe import Recipe
from training.run_folder import Run
from training.schedule import derived_seed, epoch_order, learning_rate

CHECKPOINT_INTERVAL_S = 10.0  # the most work that a kill can cost; writing one takes milliseconds


class Watcher(Protocol):
    """Is told how training goes; must not change anything."""

    def began(self, progress: Progress, num_steps: int, steps_per_epoch: int, /) -> None:
        """Training begins, or goes on, where `progress` stands."""

    def stepped(self, progress: Progress, /) -> None:
        """One more step is done."""

    def ended_epoch(self, epoch: Epoch, /) -> None:
        """An epoch is done and validated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A network trained to its end; `resumed_at` is the step at which this process took over."""

    network: nn.Module
    progress: Progress
    resumed_at: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Samples:
    """A split as tensors, on the CPU."""

    inputs: tuple[Tensor, ...]
    targets: Tensor

    def batch(self, chosen: Tensor | slice, device: str) -> tuple[tuple[Tensor, ...], Tensor]:
        return tuple(tensor[chosen].to(device) for tensor in self.inputs), self.targets[chosen].to(device)


def num_steps(config: TrainConfig, num_train: int) -> tuple[int, int]:
    """Steps of a whole run, and of one epoch; what doesn't fill a batch waits for the next epoch's order."""
    steps_per_epoch = num_train // config.batch_size
    if steps_per_epoch == 0:
        raise ValueError(f"expected at least {config.batch_size} training samples for one batch, got {num_train}")
    return config.epochs * steps_per_epoch, steps_per_epoch


def train(
    recipe: Recipe,
    dataset: Dataset,
    run: Run,
    watcher: Watcher,
    *,
    checkpoint_interval_s: float = CHECKPOINT_INTERVAL_S,
    clock: Callable[[], float] = time.monotonic,
) -> Trained:
    """Train to the end from where the run's checkpoint stands.

    Raises Diverged when the loss stops being a number, RunMismatch when the checkpoint is another network's.
    """
    config = recipe.config
    total, steps_per_epoch = num_steps(config, len(dataset.train))
    samples, validation = _samples(dataset.train, recipe), _samples(dataset.validation, recipe)
    with _deterministic(run.num_threads):
        network, optimizer = _fresh(recipe, run.device)
        progress = Progress()
        if run.checkpoint.is_file():
            progress = checkpoint.read(run.checkpoint, network, optimizer)
        watcher.began(progress, total, steps_per_epoch)
        resumed_at, earlier_s, started, saved = progress.step, progress.time_s, clock(), clock()
        order, order_of = torch.empty(0), -1
        while progress.step < total:
            epoch, index = divmod(progress.step, steps_per_epoch)
            if order_of != epoch:
                order, order_of = epoch_order(config.seed, epoch, len(samples.targets)), epoch
            chosen = order[index * config.batch_size : (index + 1) * config.batch_size]
            loss, score = _step(recipe, network, optimizer, samples.batch(chosen, run.device), progress.step, total)
            progress = replace(
                progress,
                step=progress.step + 1,
                loss_sum=progress.loss_sum + loss,
                score_sum=progress.score_sum + score,
                time_s=earlier_s + clock() - started,
            )
            watcher.stepped(progress)
            ended = progress.step % steps_per_epoch == 0
            if ended:
                progress = _ended(recipe, network, validation, run.device, progress, steps_per_epoch)
                watcher.ended_epoch(progress.epochs[-1])
            if ended or clock() - saved >= checkpoint_interval_s:
                checkpoint.write(run.checkpoint, network, optimizer, progress)
                saved = clock()
    return Trained(network=network.eval(), progress=progress, resumed_at=resumed_at)


def _samples(split: Split, recipe: Recipe) -> _Samples:
    return _Samples(inputs=tensors_of(split.inputs, recipe.inputs), targets=torch.from_numpy(split.targets))


def _fresh(recipe: Recipe, device: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(derived_seed(recipe.config.seed, "weights", 0))
    network = recipe.network().to(device)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions are twice as fast
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(
        groups, lr=recipe.config.peak_learning_rate, momentum=recipe.config.momentum, nesterov=True
    )
    return network, optimizer


def _step(
    recipe: Recipe,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: tuple[tuple[Tensor, ...], Tensor],
    step: int,
    total: int,
) -> tuple[float, float]:
    """One update of the weights; the batch's loss and score before it."""
    inputs, targets = batch
    torch.manual_seed(derived_seed(recipe.config.seed, "step", step))  # augmentation and dropout
    rate = learning_rate(recipe.config, step, total)
    for group in optimizer.param_groups:
        group["lr"] = rate
    network.train()
    outputs = as_tuple(network(*(recipe.augment(inputs) if recipe.augment else inputs)))
    loss = recipe.objective.loss(outputs, targets)
    if not math.isfinite(value := loss.item()):
        raise Diverged(
            f"the loss became {value} at step {step + 1} of {total}: try a peak_learning_rate below "
            f"{recipe.config.peak_learning_rate:g}"
        )
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value, recipe.objective.score([output.detach() for output in outputs], targets).item()


def _ended(
    recipe: Recipe, network: nn.Module, validation: _Samples, device: str, progress: Progress, steps_per_epoch: int
) -> Progress:
    loss, score = _validate(recipe, network, validation, device)
    epoch = Epoch(
        loss=progress.loss_sum / steps_per_epoch,
        score=progress.score_sum / steps_per_epoch,
        validation_loss=loss,
        validation_score=score,
    )
    return replace(progress, epochs=(*progress.epochs, epoch), loss_sum=0.0, score_sum=0.0)


def _validate(recipe: Recipe, network: nn.Module, validation: _Samples, device: str) -> tuple[float, float]:
    """Mean loss and score over the validation split."""
    network.eval()
    loss_sum = score_sum = 0.0
    total = len(validation.targets)
    with torch.inference_mode():
        for start in range(0, total, BATCH_SIZE):
            inputs, targets = validation.batch(slice(start, start + BATCH_SIZE), device)
            outputs = as_tuple(network(*inputs))
            loss_sum += recipe.objective.loss(outputs, targets).item() * len(targets)
            score_sum += recipe.objective.score(outputs, targets).item() * len(targets)
    return loss_sum / total, score_sum / total


@contextmanager
def _deterministic(num_threads: int) -> Iterator[None]:
    """Only algorithms that give the same bits twice, that many threads, and a random state of its own."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it torch refuses cuBLAS as not deterministic
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(num_threads)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_num_threads(threads)
