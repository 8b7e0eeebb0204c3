import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from contract.schema import TensorSpec
from training.data import Split, several
from training.error import DataInvalid
from training.inspection import inspect
from training.objective import Classification, MultiTask, Part, Regression
from training.recipe import Recipe

LOGITS = TensorSpec(name="logits", datatype="FP32", shape=(3,))
VALUE = TensorSpec(name="value", datatype="FP32", shape=(1,))
BOTH = MultiTask(
    parts=(
        Part(objective=Classification(), target="kind", outputs=(0,)),
        Part(objective=Regression(error="absolute"), target="size", outputs=(1,), weight=0.5),
    )
)


def test_label_smoothing_takes_from_the_label_what_it_gives_to_all() -> None:
    logits, target = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    log_p = torch.log_softmax(logits, dim=1)[0]
    expected = -(0.9 * log_p[0] + 0.1 * log_p.mean())
    assert Classification(label_smoothing=0.1).loss([logits], target).item() == pytest.approx(expected.item())
    with pytest.raises(ValueError, match="label_smoothing"):
        Classification(label_smoothing=1.0)


def test_shares_of_labels_are_learned_from_as_they_are() -> None:
    logits, shares = np.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]]), np.array([[0.2, 0.7, 0.1], [0.1, 0.6, 0.3]])
    expected = -(shares * (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))).sum(axis=1).mean()
    given = [torch.from_numpy(logits)], torch.from_numpy(shares)
    assert Classification().loss(*given).item() == pytest.approx(expected)
    assert Classification().score(*given).item() == 0.5


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([[0.5, 0.5], [0.1, 0.9]], "expected 3 shares for each sample, got 2"),
        ([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5]], "add up to 1, got .* at sample 1"),
        ([[-0.5, 0.5, 1.0], [1.0, 0.0, 0.0]], "add up to 1, got .* at sample 0"),
        ([[np.nan, 0.5, 0.5], [1.0, 0.0, 0.0]], "add up to 1, got .* at sample 0"),
        ([[0.2, 0.7, 0.1], [0.6, 0.3, 0.1]], "got none of 2"),
    ],
)
def test_shares_that_are_none_are_refused(shares: list[list[float]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Classification().check([LOGITS], np.array(shares, dtype=np.float32), whole=True)
    Classification().check([LOGITS], np.eye(3, dtype=np.float32), whole=True)


def test_heads_are_judged_by_their_own_targets_and_summed_by_weight() -> None:
    outputs = [torch.tensor([[0.0, math.log(3), 0.0]]), torch.tensor([[5.0]])]
    targets = {"kind": torch.tensor([1]), "size": torch.tensor([2.0])}
    assert BOTH.loss(outputs, targets).item() == pytest.approx(-math.log(3 / 5) + 0.5 * 3.0)
    assert BOTH.score(outputs, targets).item() == pytest.approx((1.0 - 3.0) / 2)


def test_several_targets_are_cut_like_one() -> None:
    targets = several({"kind": np.arange(6), "box": np.arange(24.0).reshape(6, 4)})
    taken = Split(inputs={"x": np.arange(6)}, targets=targets).take(slice(2, 4))
    assert len(taken) == 2
    np.testing.assert_array_equal(taken.targets["box"], [[8, 9, 10, 11], [12, 13, 14, 15]])
    with pytest.raises(ValueError, match="one length"):
        several({"kind": np.arange(6), "box": np.arange(5)})


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ({"kind": np.array([0, 1, 2])}, "expected a target 'size', got kind"),
        (
            {"kind": np.array([0, 1, 3]), "size": np.ones(3)},
            "target 'kind': expected labels from 0 to 2, got 3 at sample 2",
        ),
        ({"kind": np.array([0, 1, 1]), "size": np.ones(3)}, "target 'kind': .* got none of 2"),
        ({"kind": np.ones(3), "size": np.ones(3)}, r"a label's index for each sample, got float64 \[3\]"),
        ({"kind": np.array([0, 1, 2]), "size": np.array([1, np.nan, 1])}, "target 'size': expected finite"),
    ],
)
def test_targets_that_cannot_be_learned_from_are_named(targets: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BOTH.check([LOGITS, VALUE], several(targets), whole=True)


def test_part_of_a_split_need_not_have_every_class() -> None:
    Classification().check([LOGITS], np.array([0, 1]), whole=False)
    with pytest.raises(ValueError, match="got -1 at sample 1"):
        Classification().check([LOGITS], np.array([0, -1]), whole=False)


@pytest.fixture
def recipe(tiny: Any) -> Recipe:
    found: Recipe = tiny.RECIPE
    return found


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_broken_split_is_said_in_one_sentence(recipe: Recipe, split: str) -> None:
    dataset = recipe.load(None)
    inspect(recipe, dataset)
    good = getattr(dataset, split)
    name = {"train": "training"}.get(split, split)
    for broken, said in (
        (replace(good, targets=good.targets + 1), f"bands, {name} split: expected labels from 0 to 2, got 3"),
        (replace(good, inputs={"image": good.inputs["image"][:, 1:]}), rf"{name} split: .*expected shape .*8, 8, 1\]"),
        (replace(good, inputs={"image": good.inputs["image"] / 255}), f"{name} split: .*expected datatype UINT8"),
        (replace(good, inputs={"picture": good.inputs["image"]}), f"{name} split: expected the inputs image, got pict"),
    ):
        with pytest.raises(DataInvalid, match=said):
            inspect(recipe, replace(dataset, **{split: broken}))
