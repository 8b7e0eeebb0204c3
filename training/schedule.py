"""Learning rate and randomness as pure functions of the step.

Nothing random is carried from one step to the next, so a checkpoint holds no generator's state and a run that was
killed in the middle of an epoch goes on exactly as if it hadn't been.
"""

import math

import numpy as np
import torch

from training.config import TrainConfig

# Each draws its own numbers, whatever the others do; a new one goes to the end.
_STREAMS = ("weights", "order", "step", "process")


def learning_rate(config: TrainConfig, step: int, num_steps: int) -> float:
    """Rate of step 0 <= step < num_steps: a linear rise to the peak, then what the schedule says.

    Sources: cosine, Loshchilov & Hutter 2016, arXiv 1608.03983, without restarts; steps, He et al. 2015,
    arXiv 1512.03385; inverse square root, Vaswani et al. 2017, arXiv 1706.03762, section 5.3.
    """
    num_warmup = int(num_steps * config.warmup_ratio)
    peak = config.peak_learning_rate
    if step < num_warmup:
        return peak * (step + 1) / num_warmup
    match config.schedule:
        case "constant":
            return peak
        case "step":
            return peak * config.step_factor ** sum(step >= share * num_steps for share in config.step_at)
        case "inverse_sqrt":
            return peak * math.sqrt(max(1, num_warmup) / (step + 1 if num_warmup == 0 else max(step, num_warmup)))
    done = min(1.0, (step - num_warmup) / max(1, num_steps - 1 - num_warmup))
    left = 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return peak * (config.final_ratio + (1 - config.final_ratio) * left)


def derived_seed(seed: int, stream: str, number: int) -> int:
    """A seed of its own for the number-th draw of a stream: `weights`, `order` (by epoch), `step` or `process`."""
    sequence = np.random.SeedSequence([seed, _STREAMS.index(stream), number])
    return int(sequence.generate_state(1, np.uint32)[0])


def epoch_order(seed: int, epoch: int, num_samples: int) -> torch.Tensor:
    """The order `[num_samples]` in which an epoch sees the samples."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
    return torch.randperm(num_samples, generator=generator)
