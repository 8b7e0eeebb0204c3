from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from training.config import TrainConfig
from training.schedule import derived_seed, epoch_order, learning_rate


@given(st.integers(2, 2_000), st.floats(0, 0.9), st.floats(0, 1))
def test_the_rate_rises_to_its_peak_and_falls_to_its_end(steps: int, warmup: float, final: float) -> None:
    config = TrainConfig(warmup_ratio=warmup, final_ratio=final)
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    num_warmup = int(steps * warmup)
    rising, falling = rates[:num_warmup], rates[num_warmup:]
    assert rising == sorted(rising)
    assert all(a >= b - 1e-12 for a, b in pairwise(falling))
    assert max(rates) <= config.peak_learning_rate * (1 + 1e-12)
    assert falling[0] == config.peak_learning_rate
    if len(falling) > 1:
        assert abs(falling[-1] - config.peak_learning_rate * final) < 1e-9


@given(st.integers(0, 2**32 - 1), st.integers(0, 100), st.integers(1, 500))
def test_an_epoch_sees_every_sample_once_in_an_order_of_its_own(seed: int, epoch: int, size: int) -> None:
    order = epoch_order(seed, epoch, size)
    assert sorted(order.tolist()) == list(range(size))
    assert torch.equal(order, epoch_order(seed, epoch, size))


def test_streams_and_numbers_differ() -> None:
    seeds = {derived_seed(1, stream, n) for stream in ("weights", "order", "step") for n in range(100)}
    assert len(seeds) == 300
    assert not torch.equal(epoch_order(1, 0, 100), epoch_order(1, 1, 100))
