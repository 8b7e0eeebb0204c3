from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.config import TrainConfig
from training.schedule import derived_seed, epoch_order, learning_rate


@given(st.integers(2, 2_000), st.floats(0, 0.9), st.floats(0, 1), st.sampled_from(["cosine", "linear"]))
def test_the_rate_rises_to_its_peak_and_falls_to_its_end(steps: int, warmup: float, final: float, name: str) -> None:
    config = TrainConfig(warmup_ratio=warmup, final_ratio=final, schedule=name)  # type: ignore[arg-type]
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    num_warmup = int(steps * warmup)
    rising, falling = rates[:num_warmup], rates[num_warmup:]
    assert rising == sorted(rising)
    assert all(a >= b - 1e-12 for a, b in pairwise(falling))
    assert max(rates) <= config.peak_learning_rate * (1 + 1e-12)
    assert falling[0] == config.peak_learning_rate
    if len(falling) > 1:
        assert abs(falling[-1] - config.peak_learning_rate * final) < 1e-9


@given(st.integers(2, 500), st.floats(0, 0.9), st.sampled_from(["constant", "step", "inverse_sqrt"]))
def test_every_schedule_begins_at_the_peak_and_never_rises_again(steps: int, warmup: float, name: str) -> None:
    config = TrainConfig(warmup_ratio=warmup, schedule=name)  # type: ignore[arg-type]
    falling = [learning_rate(config, step, steps) for step in range(int(steps * warmup), steps)]
    assert max(falling) <= config.peak_learning_rate
    assert all(a >= b > 0 for a, b in pairwise(falling))
    if name == "constant" or warmup < 0.5:
        assert falling[0] == pytest.approx(config.peak_learning_rate)


def test_schedules_are_what_their_papers_say() -> None:
    steps = TrainConfig(schedule="step", step_at=(0.5, 0.75), step_factor=0.1, peak_learning_rate=1, warmup_ratio=0)
    assert [learning_rate(steps, step, 100) for step in (0, 49, 50, 74, 75)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    root = TrainConfig(schedule="inverse_sqrt", peak_learning_rate=1, warmup_ratio=0.1)
    assert [learning_rate(root, step, 100) for step in (4, 9, 10, 40)] == pytest.approx([0.5, 1, 1, 0.5])
    straight = TrainConfig(schedule="linear", peak_learning_rate=1, warmup_ratio=0, final_ratio=0)
    assert [learning_rate(straight, step, 5) for step in range(5)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])


@given(st.integers(0, 2**32 - 1), st.integers(0, 100), st.integers(1, 500))
def test_an_epoch_sees_every_sample_once_in_an_order_of_its_own(seed: int, epoch: int, size: int) -> None:
    order = epoch_order(seed, epoch, size)
    assert sorted(order.tolist()) == list(range(size))
    assert torch.equal(order, epoch_order(seed, epoch, size))


def test_streams_and_numbers_differ() -> None:
    seeds = {derived_seed(1, stream, n) for stream in ("weights", "order", "step", "process") for n in range(99)}
    assert len(seeds) == 396
    assert not torch.equal(epoch_order(1, 0, 100), epoch_order(1, 1, 100))
