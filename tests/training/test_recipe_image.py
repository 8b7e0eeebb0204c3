import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from torch import nn

from training.dataset.fashion_mnist import load
from training.forward import tensors_of
from training.network.alexnet import ResponseNorm
from training.network.inception import Branches, Inception, chain, expanded, factorised, reduction, stacked
from training.network.initialisation import Scheme, initialise
from training.network.mobilenet import InvertedResidual
from training.network.pixel import PixelScale
from training.network.vgg import Normalisation, Switches, Vgg
from training.provenance import flops
from training.recipe import Recipe
from training.recipes.fashion_convolution import RECIPES
from training.recipes.fashion_resnet import FASHION_RESNET, pixel_regression

SCALE = PixelScale([0.5], [0.25])


def image(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_picture_is_answered_the_same_alone_and_among_others(recipe: Recipe) -> None:
    network = recipe.network().eval()
    image_NHWC = image(5, 28, 28, 1)
    with torch.inference_mode():
        together, alone = network(image_NHWC), network(image_NHWC[3:4])
    assert together.shape == (5, 10)
    torch.testing.assert_close(together[3:4], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_the_four_differ_from_the_residual_recipe_in_the_network_only(recipe: Recipe) -> None:
    for field in ("inputs", "outputs", "batch", "preprocess", "postprocess", "augment", "load", "slo", "baselines"):
        assert getattr(recipe, field) == getattr(FASHION_RESNET, field)
    assert recipe.model == recipe.name
    assert recipe.gates[0].metric == "accuracy"
    (one,) = tensors_of({"image": image(1, 28, 28, 1).numpy()}, recipe.inputs)
    assert 3e6 < flops(recipe.network(), {"image": one.numpy()}, recipe.inputs) < 30e6


def test_the_baseline_is_far_above_chance_and_below_every_gate() -> None:
    dataset = load(None)
    few = replace(dataset.limited(1_500), test=dataset.test.take(slice(2_000)))
    assert 0.7 < pixel_regression(few) < min(recipe.gates[0].at_least or 0 for recipe in (FASHION_RESNET, *RECIPES))


def test_response_normalisation_is_that_of_the_paper() -> None:
    norm = ResponseNorm(7, size=5, k=2.0, alpha=0.3)
    x_NCHW = torch.randn(2, 7, 3, 4)
    expected = F.local_response_norm(x_NCHW, size=5, alpha=5 * 0.3, beta=0.75, k=2.0)  # torch's alpha is over the size
    torch.testing.assert_close(norm(x_NCHW), expected)


@pytest.mark.parametrize(
    ("module", "channels", "side"),
    [
        (stacked(8, 4), 16, 7),
        (factorised(8, 4, n=5), 16, 7),
        (expanded(8, 4), 24, 7),
        (reduction(8, 4), 16, 4),
    ],
    ids=["figure 5", "figure 6", "figure 7", "figure 10"],
)
def test_an_inception_module_has_the_channels_and_grid_that_it_says(module: Branches, channels: int, side: int) -> None:
    assert module(torch.randn(2, 8, 7, 7)).shape == (2, channels, side, side)


def test_an_inception_network_takes_any_size() -> None:
    network = Inception(SCALE, width=4, num_classes=3).eval()
    assert network(image(1, 19, 32, 1)).shape == (1, 3)


@pytest.mark.parametrize(("kernels", "seen"), [(((1, 5), (5, 1)), (5, 5)), ((3, 3), (5, 5)), (((1, 3),), (1, 3))])
def test_what_was_taken_apart_sees_as_much_as_before(
    kernels: tuple[int | tuple[int, int], ...], seen: tuple[int, int]
) -> None:
    """The pixels that the middle depends on, where no weight is 0 and no ReLU shuts."""
    convolutions = chain(1, 2, *kernels).eval()
    for parameter in convolutions.parameters():
        nn.init.ones_(parameter)
    x_NCHW = torch.ones(1, 1, 11, 11, requires_grad=True)
    convolutions(x_NCHW)[0, :, 5, 5].sum().backward()
    assert x_NCHW.grad is not None
    rows, columns = (x_NCHW.grad[0, 0] != 0).nonzero().T
    assert (rows.unique().tolist(), columns.unique().tolist()) == tuple(
        list(range(5 - length // 2, 6 + length // 2)) for length in seen
    )


def test_an_inverted_residual_is_wide_inside_linear_at_its_end_and_goes_around_where_it_can() -> None:
    block = InvertedResidual(8, 8, stride=1, expansion=6)
    apart = [layer for layer in block.body if isinstance(layer, nn.Conv2d) and layer.groups > 1]
    assert [(layer.in_channels, layer.groups) for layer in apart] == [(48, 48)]
    x_NCHW = torch.randn(4, 8, 7, 7)
    assert (block.body(x_NCHW) < 0).any()
    norm = block.body[-1]
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.zeros_(norm.weight)
    torch.testing.assert_close(block(x_NCHW), x_NCHW)
    assert InvertedResidual(8, 12, stride=2, expansion=6)(x_NCHW).shape == (4, 12, 4, 4)


@pytest.mark.parametrize(("normalisation", "mixes"), [("batch", True), ("layer", False), ("none", False)])
def test_only_batch_normalisation_lets_pictures_see_each_other(normalisation: Normalisation, mixes: bool) -> None:
    switches = Switches(normalisation=normalisation, dropout=0.0)
    network = Vgg(SCALE, side=8, widths=(4, 4), hidden=8, num_classes=3, switches=switches).train()
    image_NHWC = image(6, 8, 8, 1)
    together, fewer = network(image_NHWC)[:2], network(image_NHWC[:2])
    assert torch.allclose(together, fewer, atol=1e-5) is not mixes


@pytest.mark.parametrize(
    ("scheme", "deviation"),
    [
        ("normal", 0.01),
        ("xavier", math.sqrt(2 / (64 * 9 + 128 * 9))),
        ("kaiming", math.sqrt(2 / (64 * 9))),
        ("orthogonal", math.sqrt(2 / (64 * 9))),
    ],
)
def test_first_weights_have_the_size_of_their_scheme(scheme: Scheme, deviation: float) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 128, 3)
    initialise(layer, scheme)
    assert layer.weight.std().item() == pytest.approx(deviation, rel=0.01)
    assert layer.bias is not None
    assert not layer.bias.any()
    if scheme == "orthogonal":
        rows = layer.weight.flatten(1)
        torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(128), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("scheme", "least", "most"), [("kaiming", 0.3, 3.0), ("orthogonal", 0.3, 3.0), ("normal", 0, 1e-9)]
)
def test_a_signal_lives_through_many_layers_by_first_weights_of_the_right_size(
    scheme: Scheme, least: float, most: float
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Sequential(nn.Linear(256, 256), nn.ReLU()) for _ in range(20)))
    initialise(network, scheme)
    assert least <= network(torch.randn(64, 256)).square().mean().sqrt().item() <= most


def test_switches_and_schemes_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of batch, layer, none, got 'group'"):
        Switches(normalisation="group")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dropout: expected from 0 to below 1, got 1"):
        Switches(dropout=1.0)
    with pytest.raises(ValueError, match="expected one of normal, xavier, kaiming, orthogonal, got 'zeros'"):
        initialise(nn.Linear(1, 1), "zeros")  # type: ignore[arg-type]
