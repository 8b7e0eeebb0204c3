from typing import Any

import pytest

from training.config import TrainConfig


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"epochs": 0},
        {"batch_size": 1},
        {"peak_learning_rate": 0.0},
        {"peak_learning_rate": float("nan")},
        {"warmup_ratio": 1.0},
        {"final_ratio": 1.5},
        {"momentum": 1.0},
        {"weight_decay": -1e-4},
        {"num_train": 5},
        {"accumulation": 3},
        {"optimizer": "rmsprop"},
        {"schedule": "exponential"},
        {"precision": "fp8"},
        {"watched": "accuracy"},
        {"momentum": -0.1},
        {"second_momentum": 1.0},
        {"epsilon": 0.0},
        {"clip_norm": 0.0},
        {"patience": 0},
        {"min_improvement": -1.0},
        {"step_at": (0.7, 0.5)},
        {"step_factor": 0.0},
    ],
)
def test_numbers_that_cannot_be_trained_with_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}: expected .* got"):
        TrainConfig(**wrong)


def test_numbers_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="nesterov: expected False where momentum is 0"):
        TrainConfig(momentum=0.0)
    with pytest.raises(ValueError, match="sharded: expected bf16 or fp32 with it"):
        TrainConfig(sharded=True, precision="fp16")
    TrainConfig(momentum=0.0, nesterov=False)
    TrainConfig(momentum=0.0, optimizer="adam")
