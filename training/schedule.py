"""Learning rate and randomness as pure functions of the step.

Nothing random is carried from one step to the next, so a checkpoint holds no generator's state and a run that was
killed in the middle of an epoch goes on exactly as if it hadn't been.
"""

import math

import numpy as np
import torch

from training.config import TrainConfig

_STREAMS = ("weights", "order", "step")  # each draws its own numbers, whatever the others do


def learning_rate(config: TrainConfig, step: int, num_steps: int) -> float:
    """Rate of step 0 <= step < num_steps: a linear rise to the peak, then half a cosine down.

    Source: Loshchilov & Hutter 2016, arXiv 1608.03983, without restarts.
    """
    num_warmup = int(num_steps * config.warmup_ratio)
    if step < num_warmup:
        return config.peak_learning_rate * (step + 1) / num_warmup
    done = (step - num_warmup) / max(1, num_steps - 1 - num_warmup)
    cosine = (1 + math.cos(math.pi * min(1.0, done))) / 2
    return config.peak_learning_rate * (config.final_ratio + (1 - config.final_ratio) * cosine)


def derived_seed(seed: int, stream: str, number: int) -> int:
    """A seed of its own for the number-th draw of a stream: `weights`, `order` (by epoch) or `step`."""
    sequence = np.random.SeedSequence([seed, _STREAMS.index(stream), number])
    return int(sequence.generate_state(1, np.uint32)[0])


def epoch_order(seed: int, epoch: int, num_samples: int) -> torch.Tensor:
    """The order `[num_samples]` in which an epoch sees the samples."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
    return torch.randperm(num_samples, generator=generator)
