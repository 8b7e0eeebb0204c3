"""Layers in trouble are named; healthy ones aren't; and looking changes nothing."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from training.layer import Layer, LayerWatch, first_not_finite, notes
from training.network.pixel import PixelScale
from training.network.residual import ResidualNetwork


def look(network: nn.Module, x: Tensor) -> dict[str, Layer]:
    with LayerWatch(network) as watch:
        loss = network(x).square().mean()
    loss.backward()
    return watch.layers()


def dense(width: int, activation: Callable[[], nn.Module], depth: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(part for _ in range(depth) for part in (nn.Linear(width, width), activation())))


def test_a_deep_sigmoid_network_gets_no_gradient_at_its_beginning() -> None:
    (said,) = notes(look(dense(16, nn.Sigmoid, 10), torch.randn(8, 16)))
    assert said.startswith("the gradient vanishes in layers 0, 2")
    assert "try normalisation" in said


def test_a_network_of_large_weights_explodes() -> None:
    network = dense(16, nn.Identity, 6)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(40)
    found = notes(look(network, torch.randn(8, 16)))
    assert any(said.startswith("the gradient explodes in layers 0, 2, 4 and 3 more: set clip_norm") for said in found)


def test_units_that_a_bias_holds_down_are_dead() -> None:
    first = nn.Linear(16, 16)
    network = nn.Sequential(first, nn.ReLU(), nn.Linear(16, 16))
    with torch.no_grad():
        first.bias.fill_(-1e3)
    found = notes(look(network, torch.randn(8, 16)))
    assert any("answer the same to every sample in layers 1, 2:" in said for said in found)


@pytest.mark.parametrize("widths", [(8, 16), (8, 8, 16, 16)])
def test_a_healthy_network_has_no_notes(widths: Sequence[int]) -> None:
    torch.manual_seed(0)
    network = ResidualNetwork(PixelScale([0.5], [0.3]), widths=widths, num_classes=5)
    layers = look(network, torch.randint(0, 256, (16, 12, 12, 1), dtype=torch.uint8))
    assert notes(layers) == ()
    assert {"stem.0", "stem.2", "blocks.0.body.0", "blocks.0", "head"} <= layers.keys()
    assert not network.stem[0]._forward_hooks


def test_the_layer_that_breaks_first_is_named() -> None:
    broken = nn.Linear(4, 4)
    network = nn.Sequential(nn.Linear(4, 4), broken, nn.ReLU(), nn.Linear(4, 4))
    assert first_not_finite(network, [torch.ones(2, 4)]) is None
    with torch.no_grad():
        broken.weight[0, 0] = float("inf")
    assert first_not_finite(network, [torch.ones(2, 4)]) == "1"
