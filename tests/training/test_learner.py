"""One update: what it must not depend on, and what each setting does to it."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from training import run_folder
from training.config import TrainConfig
from training.error import RunMismatch
from training.group import Group
from training.learner import Learner, Samples, Update
from training.loop import train
from training.optimizer import make_optimizer
from training.recipe import Recipe
from training.start import Start


class Plain(nn.Module):
    """No batch normalisation, which sees the parts of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(64, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, image_NHWC: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.body(image_NHWC.flatten(1).float() / 255)))
        return logits


@pytest.fixture
def recipe(tiny: SimpleNamespace) -> Recipe:
    made: Recipe = dataclasses.replace(tiny.RECIPE, network=Plain)
    return made


def learner(recipe: Recipe, folder: Path, **config: Any) -> Learner:
    recipe = dataclasses.replace(recipe, config=dataclasses.replace(recipe.config, **config))
    run = run_folder.Run(folder=folder, num_threads=1, device="cpu")
    return Learner(recipe, run, Group(), None)


def updated(learned: Learner, recipe: Recipe, num_updates: int = 3) -> list[Update]:
    samples = Samples.of(recipe.load(None).train, recipe)
    batches = (samples.batch(slice(i * 32, i * 32 + 32), "cpu") for i in range(num_updates))
    return [learned.update(batch, i, 10, watched=False) for i, batch in enumerate(batches)]


def weights(learned: Learner) -> dict[str, Tensor]:
    return dict(learned.network.state_dict())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_parts_of_a_batch_add_up_to_the_batch(recipe: Recipe, tmp_path: Path, optimizer: str) -> None:
    settings = {"optimizer": optimizer, "peak_learning_rate": 0.01, "epsilon": 1e-3}
    whole, parts = (learner(recipe, tmp_path, accumulation=n, **settings) for n in (1, 4))
    for one, four in zip(updated(whole, recipe), updated(parts, recipe), strict=True):
        assert four.loss == pytest.approx(one.loss, abs=1e-6)
        assert four.score == pytest.approx(one.score, abs=1e-6)
        assert four.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-5)
    torch.testing.assert_close(weights(parts), weights(whole), atol=1e-6, rtol=1e-5)


def test_a_long_gradient_is_cut_to_the_length_that_is_asked_for(recipe: Recipe, tmp_path: Path) -> None:
    """Plain SGD moves by rate times gradient, so the move shows what the gradient was."""
    plain = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "schedule": "constant", "warmup_ratio": 0.0}
    moved = {}
    for clip_norm in (None, 0.01):
        learned = learner(recipe, tmp_path, clip_norm=clip_norm, peak_learning_rate=1.0, **plain)
        before = torch.cat([p.detach().flatten().clone() for p in learned.network.parameters()])
        (update,) = updated(learned, recipe, 1)
        after = torch.cat([p.detach().flatten() for p in learned.network.parameters()])
        moved[clip_norm] = float((after - before).norm())
        assert update.gradient_norm == pytest.approx(moved[None], rel=1e-4)
    assert moved[None] > 0.1
    assert moved[0.01] == pytest.approx(0.01, rel=1e-3)


def test_the_average_of_the_weights_is_validated_and_published_and_learning_goes_on_without_it(
    recipe: Recipe, tmp_path: Path
) -> None:
    settings = {"momentum": 0.0, "nesterov": False}
    plain, averaged = learner(recipe, tmp_path, **settings), learner(recipe, tmp_path, average=0.5, **settings)
    held_out = Samples.of(recipe.load(None).validation, recipe)
    expected: dict[str, Tensor] = {}
    samples = Samples.of(recipe.load(None).train, recipe)
    for step in range(4):
        batch = samples.batch(slice(step * 32, step * 32 + 32), "cpu")
        for learned in (plain, averaged):
            learned.update(batch, step, 10, watched=False)
            validated = learned.validate(held_out)
        kept = min(0.5, (1 + step) / (10 + step))
        now = {name: tensor.clone() for name, tensor in weights(plain).items()}
        expected = {n: kept * expected[n] + (1 - kept) * t for n, t in now.items()} if expected else now
        torch.testing.assert_close(weights(averaged), now, rtol=0, atol=0)

    averaged.settle()
    torch.testing.assert_close(weights(averaged), expected)
    averaged.average = {}
    assert averaged.validate(held_out) == pytest.approx(validated)


@pytest.mark.parametrize(("precision", "tolerance"), [("auto", 0.0), ("fp32", 0.0), ("bf16", 0.02), ("fp16", 0.005)])
def test_half_precision_stays_near_full_and_weights_stay_full(
    recipe: Recipe, tmp_path: Path, precision: str, tolerance: float
) -> None:
    full, other = learner(recipe, tmp_path), learner(recipe, tmp_path, precision=precision)
    for exact, near in zip(updated(full, recipe), updated(other, recipe), strict=True):
        assert near.loss == pytest.approx(exact.loss, abs=tolerance)
        assert (near.loss == exact.loss) is (tolerance == 0)
    assert {tensor.dtype for tensor in weights(other).values()} == {torch.float32}


def test_optimizers_are_torchs_and_only_matrices_decay() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    for name, kind in (("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        config = TrainConfig(optimizer=name, momentum=0.8, second_momentum=0.9, weight_decay=0.1)  # type: ignore[arg-type]
        made = make_optimizer(config, network)
        assert type(made) is kind
        assert [(len(g["params"]), g["weight_decay"]) for g in made.param_groups] == [(1, 0.1), (3, 0.0)]
        group = made.param_groups[0]
        assert group.get("betas", (0.8, 0.9)) == (0.8, 0.9)
        assert group.get("momentum", 0.8) == 0.8


def test_frozen_parts_stay_as_they_are_running_statistics_too(tiny: SimpleNamespace, tmp_path: Path) -> None:
    recipe = dataclasses.replace(tiny.RECIPE, frozen=("stem.*", "blocks.*"))
    learned = learner(recipe, tmp_path)
    before = {name: tensor.clone() for name, tensor in weights(learned).items()}
    updated(learned, recipe)
    changed = {name for name, tensor in weights(learned).items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.weight", "head.bias"}
    with pytest.raises(ValueError, match=r"got 'stern.\*'; there are stem.0.weight"):
        learner(dataclasses.replace(recipe, frozen=("stern.*",)), tmp_path)


def test_fine_tuning_begins_where_another_run_ended(tiny: SimpleNamespace, tmp_path: Path) -> None:
    recipe = dataclasses.replace(tiny.RECIPE, config=dataclasses.replace(tiny.CONFIG, epochs=1))
    dataset = recipe.load(None)
    with run_folder.opened(tmp_path, recipe, dataset) as opened:
        first = train(recipe, dataset, opened, tiny.Unwatched())
    tuned = dataclasses.replace(recipe, start=Start(weights=tmp_path / "bands", fresh=("head.*",)))
    begun, trained = weights(learner(tuned, tmp_path)), first.network.state_dict()
    equal = {name for name in begun if torch.equal(begun[name], trained[name])}
    assert begun.keys() - equal == {"head.weight", "head.bias"}
    assert tuned.describe()["start"]["fresh"] == ["head.*"]
    assert "start" not in recipe.describe()


def test_weights_that_do_not_fit_are_named(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"body.weight": torch.zeros(8, 64), "head.weight": torch.zeros(5, 8), "tail": torch.zeros(1)}, file)
    said = r"body.bias, head.bias missing; tail unexpected; head.weight of another shape"
    with pytest.raises(RunMismatch, match=said):
        learner(dataclasses.replace(recipe, start=Start(weights=file)), tmp_path)
    file.write_bytes(b"no weights")
    with pytest.raises(RunMismatch, match="no safetensors file"):
        learner(dataclasses.replace(recipe, start=Start(weights=file)), tmp_path)
    with pytest.raises(RunMismatch, match="got no such file"):
        Start(weights=tmp_path / "absent").describe()
