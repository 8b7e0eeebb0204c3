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
    ],
)
def test_numbers_that_cannot_be_trained_with_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}: expected .* got"):
        TrainConfig(**wrong)
