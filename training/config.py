"""The numbers that a training run depends on, each with its reason.

They belong to a run's identity: a run folder made with other numbers refuses to resume.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Stochastic gradient descent with Nesterov momentum under a warm-up and a cosine.

    The defaults suit small convolutional networks with batch normalisation on one machine; a recipe overrides what
    it has a reason to. Raises ValueError for a number outside its range.
    """

    # Weights, order of the data and augmentation are functions of the seed; its value has no meaning.
    seed: int = 1
    # Passes over the training split; the time a run takes is proportional to it.
    epochs: int = 10
    # Large enough for two cores to run at full width, small enough for hundreds of steps an epoch.
    batch_size: int = 128
    # For SGD on batch-normalised networks 0.1 per 256 samples is the usual scale (Goyal et al. 2017, arXiv 1706.02677).
    peak_learning_rate: float = 0.1
    # Share of the steps in which the rate rises from nothing: the first gradients of random weights are large.
    warmup_ratio: float = 0.15
    # Where the cosine ends, as a share of the peak: small enough that the weights come to rest.
    final_ratio: float = 0.002
    # Averages the gradient over about ten steps (Sutskever et al. 2013).
    momentum: float = 0.9
    # Applied to matrices and filters only: shrinking biases and normalisation scales helps nobody.
    weight_decay: float = 5e-4
    # Use only that many samples of the training split (None: all): for quick runs and tests.
    num_train: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that can't be trained with."""
        _check("seed", self.seed, 0 <= self.seed < 2**32, "from 0 to 2^32 - 1")
        _check("epochs", self.epochs, self.epochs >= 1, "at least 1")
        _check("batch_size", self.batch_size, self.batch_size >= 2, "at least 2, for batch normalisation")
        _check("peak_learning_rate", self.peak_learning_rate, self.peak_learning_rate > 0, "above 0")
        _check("warmup_ratio", self.warmup_ratio, 0 <= self.warmup_ratio < 1, "from 0 to below 1")
        _check("final_ratio", self.final_ratio, 0 <= self.final_ratio <= 1, "from 0 to 1")
        _check("momentum", self.momentum, 0 < self.momentum < 1, "between 0 and 1")
        _check("weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        if self.num_train is not None:
            _check("num_train", self.num_train, self.num_train >= self.batch_size, "at least one batch")


def _check(name: str, value: float, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name}: expected {expected}, got {value}")
