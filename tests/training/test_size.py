"""A network small enough to be reckoned by hand, and a clock that ticks once a step."""

from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from torch import Tensor, nn

from contract.schema import TensorSpec
from training.config import TrainConfig
from training.provenance import flops
from training.recipe import Recipe
from training.size import Size, measure

BATCH = 16
NUM_PARAMETERS = 64 * 8 + 8 + 8 * 3 + 3


class TwoLayers(nn.Module):
    """64 pixels, 8 units, 3 labels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 8), nn.Linear(8, 3)

    def forward(self, image_NHWC: Tensor) -> Tensor:
        return self.last(self.first(image_NHWC.flatten(1).float()).relu())  # type: ignore[no-any-return]


@pytest.fixture
def recipe(tiny: SimpleNamespace) -> Recipe:
    config = TrainConfig(epochs=7, batch_size=BATCH)
    made: Recipe = replace(tiny.RECIPE, network=TwoLayers, augment=None, config=config)
    return made


def sized(recipe: Recipe, tiny: SimpleNamespace) -> Size:
    ticks = count()
    return measure(recipe, tiny.load(), num_measured=3, clock=lambda: float(next(ticks)))


def test_a_network_is_as_large_as_it_is_by_hand(recipe: Recipe, tiny: SimpleNamespace) -> None:
    found = sized(recipe, tiny)
    assert (found.num_parameters, found.num_trainable) == (NUM_PARAMETERS, NUM_PARAMETERS)
    assert found.flops_per_sample == 2 * (64 * 8 + 8 * 3)
    assert found.memory.weights_bytes == found.memory.gradients_bytes == 4 * NUM_PARAMETERS
    assert found.memory.optimizer_bytes == 4 * NUM_PARAMETERS  # SGD's momentum
    # For the weights' gradients the inputs of both layers (the second also serves the ReLU), for the loss its
    # log-probabilities, the targets as INT64, and the one weight that it divided by.
    assert found.memory.activations_bytes == BATCH * 4 * (64 + 8 + 3) + BATCH * 8 + 4
    memory = found.memory
    assert memory.total_bytes == 3 * 4 * NUM_PARAMETERS + memory.activations_bytes


def test_recurrent_layers_count_step_by_step() -> None:
    network = nn.LSTM(8, 16, batch_first=True)
    spec = TensorSpec(name="x", datatype="FP32", shape=(5, 8))
    assert flops(network, {"x": np.ones((1, 5, 8), np.float32)}, (spec,)) == 2 * 5 * 4 * 16 * (8 + 16)


def test_what_is_frozen_needs_no_gradient_and_no_momentum(recipe: Recipe, tiny: SimpleNamespace) -> None:
    found = sized(replace(recipe, frozen=("first.*",)), tiny)
    assert found.num_parameters == NUM_PARAMETERS
    assert found.num_trainable == 8 * 3 + 3
    assert found.memory.gradients_bytes == found.memory.optimizer_bytes == 4 * (8 * 3 + 3)
    assert found.memory.activations_bytes == BATCH * 4 * (8 + 3) + BATCH * 8 + 4


def test_adam_keeps_two_averages_and_a_count_for_every_tensor(recipe: Recipe, tiny: SimpleNamespace) -> None:
    adam = replace(recipe, config=replace(recipe.config, optimizer="adamw", peak_learning_rate=1e-3))
    assert sized(adam, tiny).memory.optimizer_bytes == 4 * (2 * NUM_PARAMETERS + 4)


def test_a_batch_in_two_parts_keeps_half_as_much(recipe: Recipe, tiny: SimpleNamespace) -> None:
    halved = replace(recipe, config=replace(recipe.config, accumulation=2))
    assert sized(halved, tiny).memory.activations_bytes == BATCH // 2 * (4 * (64 + 8 + 3) + 8) + 4


def test_a_run_takes_its_steps_and_its_validations(recipe: Recipe, tiny: SimpleNamespace) -> None:
    took = sized(recipe, tiny).duration
    assert took.num_steps == 7 * (160 // BATCH)
    assert took.num_measured == 3
    assert took.value_s == took.low_s == took.high_s == took.num_steps + 7


def test_a_data_set_of_one_batch_is_measured_too(recipe: Recipe, tiny: SimpleNamespace) -> None:
    took = sized(replace(recipe, config=replace(recipe.config, batch_size=160)), tiny).duration
    assert (took.num_steps, took.num_measured, took.value_s) == (7, 1, 14)
