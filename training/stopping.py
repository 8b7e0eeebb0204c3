"""When a run ends: after its last step, or when validation hasn't got better for a while.

Everything follows from the finished epochs, so a run that was killed stops where it would have stopped anyway.
"""

from collections.abc import Sequence

from training.checkpoint import Epoch, Progress
from training.config import TrainConfig


def num_steps(config: TrainConfig, num_train: int) -> tuple[int, int]:
    """Steps of a whole run, and of one epoch; what doesn't fill a batch waits for the next epoch's order."""
    steps_per_epoch = num_train // config.batch_size
    if steps_per_epoch == 0:
        raise ValueError(f"expected at least {config.batch_size} training samples for one batch, got {num_train}")
    return config.epochs * steps_per_epoch, steps_per_epoch


def best_epoch(config: TrainConfig, epochs: Sequence[Epoch]) -> int:
    """Index of the last epoch that was better than all before it by `min_improvement`; there is at least one epoch."""
    best = 0
    for index, epoch in enumerate(epochs):
        if _goodness(config, epoch) > _goodness(config, epochs[best]) + config.min_improvement:
            best = index
    return best


def is_finished(config: TrainConfig, progress: Progress, num_train: int) -> bool:
    """Whether the run has nothing left to do: its steps are done, or its patience is at an end."""
    if progress.step >= num_steps(config, num_train)[0]:
        return True
    epochs = progress.epochs
    if config.patience is None or not epochs:
        return False
    return len(epochs) - 1 - best_epoch(config, epochs) >= config.patience


def _goodness(config: TrainConfig, epoch: Epoch) -> float:
    return -epoch.validation_loss if config.watched == "loss" else epoch.validation_score
