"""The training loop: killed at any moment and started again, it ends with the same bits as if it hadn't been.

What a step does is a function of the weights, the optimizer's state and the step's number: the order of the data
follows from (seed, epoch), whatever is random inside a step from (seed, step), the learning rate from the step. So a
checkpoint may be taken after any step, and it is: by the clock, and at every epoch's end.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import nn

from training import checkpoint
from training.checkpoint import Epoch, Progress
from training.curve import Curves
from training.data import Dataset
from training.error import RunMismatch
from training.event import event_file
from training.group import Group
from training.inspection import inspect
from training.layer import notes
from training.learner import Learner, Samples, Update
from training.recipe import Recipe
from training.run_folder import Run
from training.schedule import epoch_order
from training.stopping import best_epoch, is_finished, num_steps

__all__ = ["Trained", "Watcher", "is_finished", "num_steps", "train"]

CHECKPOINT_INTERVAL_S = 10.0  # the most work that a kill can cost; writing one takes milliseconds
WATCH_INTERVAL = 100  # steps between two looks at the layers


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


def train(
    recipe: Recipe,
    dataset: Dataset,
    run: Run,
    watcher: Watcher,
    *,
    group: Group | None = None,
    events: bool = False,
    checkpoint_interval_s: float = CHECKPOINT_INTERVAL_S,
    clock: Callable[[], float] = time.monotonic,
) -> Trained:
    """Train to the end from where the run's checkpoint stands; with `events`, write TensorBoard's files too.

    The processes of a `group` call it together. Raises DataInvalid for a data set that can't be learned from,
    Diverged when the loss stops being a number, RunMismatch when the checkpoint is another network's or belongs to
    another number of processes.
    """
    group = group or Group()
    state, progress = checkpoint.load(run.checkpoint) if run.checkpoint.is_file() else (None, Progress())
    total, steps_per_epoch = num_steps(recipe.config, len(dataset.train))
    finished = is_finished(recipe.config, progress, len(dataset.train))
    if not finished:
        _check_group(recipe, run, group)
        inspect(recipe, dataset)
    with ExitStack() as stack:
        stack.enter_context(_deterministic(run.num_threads))
        learner = Learner(recipe, run, group, state)
        watcher.began(progress, total, steps_per_epoch)
        resumed_at = progress.step
        if not finished:
            file = stack.enter_context(event_file(run.folder, progress.step, wanted=events and group.is_first))
            curves = Curves(run.folder, progress, total, events=file) if group.is_first else None
            keeper = _Keeper(run, group, learner, curves, checkpoint_interval_s, clock)
            progress = _train(recipe, dataset, run.device, learner, keeper, watcher, progress, clock)
    return Trained(network=learner.network.eval(), progress=progress, resumed_at=resumed_at)


def _train(
    recipe: Recipe,
    dataset: Dataset,
    device: str,
    learner: Learner,
    keeper: "_Keeper",
    watcher: Watcher,
    progress: Progress,
    clock: Callable[[], float],
) -> Progress:
    config, num_train = recipe.config, len(dataset.train)
    total, steps_per_epoch = num_steps(config, num_train)
    samples, validation = Samples.of(dataset.train, recipe), Samples.of(dataset.validation, recipe)
    earlier_s, started = progress.time_s, clock()
    order, order_of = torch.empty(0), -1
    while not is_finished(config, progress, num_train):
        epoch, index = divmod(progress.step, steps_per_epoch)
        if order_of != epoch:
            order, order_of = epoch_order(config.seed, epoch, num_train), epoch
        chosen = order[index * config.batch_size : (index + 1) * config.batch_size]
        watched = progress.step % WATCH_INTERVAL == 0 or index + 1 == steps_per_epoch
        update = learner.update(samples.batch(chosen, device), progress.step, total, watched=watched)
        progress = replace(
            progress,
            step=progress.step + 1,
            loss_sum=progress.loss_sum + update.loss,
            score_sum=progress.score_sum + update.score,
            time_s=earlier_s + clock() - started,
            notes=progress.notes if update.layers is None else notes(update.layers),
        )
        keeper.note(progress, update)
        watcher.stepped(progress)
        if progress.step % steps_per_epoch:
            keeper.save_when_due(progress)
            continue
        progress = _ended(progress, steps_per_epoch, learner.validate(validation))
        if config.patience is not None and best_epoch(config, progress.epochs) == len(progress.epochs) - 1:
            learner.keep_best()
        if is_finished(config, progress, num_train):
            learner.settle()
        keeper.end_epoch(progress)
        watcher.ended_epoch(progress.epochs[-1])
    return progress


def _ended(progress: Progress, steps_per_epoch: int, validated: tuple[float, float]) -> Progress:
    loss, score = validated
    epoch = Epoch(
        loss=progress.loss_sum / steps_per_epoch,
        score=progress.score_sum / steps_per_epoch,
        validation_loss=loss,
        validation_score=score,
        notes=progress.notes,
    )
    return replace(progress, epochs=(*progress.epochs, epoch), loss_sum=0.0, score_sum=0.0)


def _check_group(recipe: Recipe, run: Run, group: Group) -> None:
    if run.num_processes != group.size:
        raise RunMismatch(
            f"{run.folder} holds a run of {run.num_processes} processes, and this is a start with {group.size}: "
            f"go on with {run.num_processes}, or delete it to train anew"
        )
    if recipe.config.batch_size % (group.size * recipe.config.accumulation):
        raise RunMismatch(
            f"expected a batch_size that {group.size} processes with {recipe.config.accumulation} parts each divide, "
            f"got {recipe.config.batch_size}: start another number of processes, or change the recipe"
        )


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


class _Keeper:
    """Writes what a run has come to: its curves and checkpoints, by the first process, in that order."""

    def __init__(
        self,
        run: Run,
        group: Group,
        learner: Learner,
        curves: Curves | None,
        interval_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._run, self._group, self._learner, self._curves = run, group, learner, curves
        self._interval_s, self._clock = interval_s, clock
        self._saved_at = clock()

    def note(self, progress: Progress, update: Update) -> None:
        """Note a step."""
        if self._curves is None:
            return
        values = {
            "loss": update.loss,
            "score": update.score,
            "learning_rate": update.learning_rate,
            "gradient_norm": update.gradient_norm,
            "time_s": progress.time_s,
        }
        self._curves.step(progress.step, values)
        if update.layers is not None:
            self._curves.layers(progress.step, update.layers)

    def end_epoch(self, progress: Progress) -> None:
        """Note an epoch, and save."""
        if self._curves is not None:
            self._curves.epochs(progress.step, progress.epochs)
        self._save(progress)

    def save_when_due(self, progress: Progress) -> None:
        """Save when the last time is long enough ago, by the first process's clock."""
        if self._group.first_says(self._clock() - self._saved_at >= self._interval_s):
            self._save(progress)

    def _save(self, progress: Progress) -> None:
        state = self._learner.state()
        if self._curves is not None:
            self._curves.flush()
            checkpoint.write(self._run.checkpoint, state, progress)
        self._saved_at = self._clock()
