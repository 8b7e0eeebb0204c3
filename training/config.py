"""The numbers that a training run depends on, each with its reason.

They belong to a run's identity: a run folder made with other numbers refuses to resume.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

OptimizerName = Literal["sgd", "adam", "adamw"]
ScheduleName = Literal["cosine", "linear", "constant", "step", "inverse_sqrt"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]
Watched = Literal["loss", "score"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """What is done in a run, and how much of it.

    The defaults are stochastic gradient descent with Nesterov momentum under a warm-up and a cosine; they suit small
    convolutional networks with batch normalisation on one machine, and a recipe overrides what it has a reason to.
    Raises ValueError for a number outside its range.
    """

    # Weights, order of the data and augmentation are functions of the seed; its value has no meaning.
    seed: int = 1
    # Passes over the training split; the time a run takes is proportional to it.
    epochs: int = 10
    # Samples an update is made from, over all processes and parts: large enough for two cores to run at full width,
    # small enough for hundreds of steps an epoch.
    batch_size: int = 128
    # Parts that a process computes its share of a batch in, one after the other: more where memory doesn't hold it.
    accumulation: int = 1
    # SGD generalises best on convolutions; Adam and AdamW forgive more, and transformers need them.
    optimizer: OptimizerName = "sgd"
    # For SGD on batch-normalised networks 0.1 per 256 samples is the usual scale (Goyal et al. 2017, arXiv 1706.02677);
    # for Adam and AdamW about 1e-3.
    peak_learning_rate: float = 0.1
    # What the rate does after its rise.
    schedule: ScheduleName = "cosine"
    # Share of the steps in which the rate rises from nothing: the first gradients of random weights are large.
    warmup_ratio: float = 0.15
    # Where cosine and linear end, as a share of the peak: small enough that the weights come to rest.
    final_ratio: float = 0.002
    # Shares of the steps at which the `step` schedule multiplies the rate by `step_factor` (He et al. 2015).
    step_at: tuple[float, ...] = (0.5, 0.75)
    step_factor: float = 0.1
    # Averages the gradient over about ten steps (Sutskever et al. 2013); Adam's first beta.
    momentum: float = 0.9
    # Looks at the gradient where momentum is about to carry the weights; SGD's only.
    nesterov: bool = True
    # Averages the squared gradient over about a thousand steps (Kingma & Ba 2014, arXiv 1412.6980); Adam's second beta.
    second_momentum: float = 0.999
    # Keeps Adam from dividing by nothing.
    epsilon: float = 1e-8
    # Applied to matrices and filters only: shrinking biases and normalisation scales helps nobody.
    weight_decay: float = 5e-4
    # Scale a gradient longer than this down to it: recurrent networks and transformers see single huge ones.
    clip_norm: float | None = None
    # Validate and publish a running average of the weights, of which each update keeps this share (0: no average).
    # 0.998 looks back some 500 updates, and wobbles less than any one of them (Polyak & Juditsky 1992).
    average: float = 0.0
    # Datatype of the arithmetic; weights stay in FP32. `auto`: FP32 on a CPU, on a GPU BF16 where it has it, else FP16.
    precision: PrecisionName = "auto"
    # Stop after so many epochs without a better validation (None: never), and go back to the best epoch's weights.
    patience: int | None = None
    # What "better" is measured by, and by how much at least.
    watched: Watched = "loss"
    min_improvement: float = 0.0
    # Spread weights, gradients and the optimizer's state over the processes: for a model that one GPU doesn't hold.
    sharded: bool = False
    # Use only that many samples of the training split (None: all): for quick runs and tests.
    num_train: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that can't be trained with."""
        _check("seed", self.seed, 0 <= self.seed < 2**32, "from 0 to 2^32 - 1")
        _check("epochs", self.epochs, self.epochs >= 1, "at least 1")
        _check("batch_size", self.batch_size, self.batch_size >= 2, "at least 2, for batch normalisation")
        divides = self.accumulation >= 1 and self.batch_size % self.accumulation == 0
        _check("accumulation", self.accumulation, divides, f"a divisor of batch_size, {self.batch_size}")
        self._check_names()
        self._check_optimizer()
        self._check_schedule()
        if self.clip_norm is not None:
            _check("clip_norm", self.clip_norm, self.clip_norm > 0, "above 0")
        if self.patience is not None:
            _check("patience", self.patience, self.patience >= 1, "at least 1")
        _check("min_improvement", self.min_improvement, self.min_improvement >= 0, "at least 0")
        _check("average", self.average, 0 <= self.average < 1, "from 0 to below 1")
        _check("sharded", self.sharded, not (self.sharded and self.average), "no average with it")
        _check("sharded", self.sharded, not (self.sharded and self.precision == "fp16"), "bf16 or fp32 with it")
        if self.num_train is not None:
            _check("num_train", self.num_train, self.num_train >= self.batch_size, "at least one batch")

    def _check_names(self) -> None:
        for field, names in (
            ("optimizer", OptimizerName),
            ("schedule", ScheduleName),
            ("precision", PrecisionName),
            ("watched", Watched),
        ):
            allowed, value = get_args(names), getattr(self, field)
            _check(field, repr(value), value in allowed, f"one of {', '.join(allowed)}")

    def _check_optimizer(self) -> None:
        _check("peak_learning_rate", self.peak_learning_rate, self.peak_learning_rate > 0, "above 0")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "from 0 to below 1")
        needs_momentum = self.optimizer == "sgd" and self.nesterov
        _check("nesterov", self.nesterov, not needs_momentum or self.momentum > 0, "False where momentum is 0")
        _check("second_momentum", self.second_momentum, 0 <= self.second_momentum < 1, "from 0 to below 1")
        _check("epsilon", self.epsilon, self.epsilon > 0, "above 0")
        _check("weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0")

    def _check_schedule(self) -> None:
        _check("warmup_ratio", self.warmup_ratio, 0 <= self.warmup_ratio < 1, "from 0 to below 1")
        _check("final_ratio", self.final_ratio, 0 <= self.final_ratio <= 1, "from 0 to 1")
        inside = all(0 < share < 1 for share in self.step_at)
        _check("step_at", self.step_at, inside and list(self.step_at) == sorted(self.step_at), "rising shares in 0..1")
        _check("step_factor", self.step_factor, 0 < self.step_factor <= 1, "above 0 and up to 1")


def _check(name: str, value: Any, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name}: expected {expected}, got {value}")
