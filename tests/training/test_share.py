"""Parts of a batch and shares of processes: together they have the loss, the score and the gradient of the whole."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from training import run_folder
from training.detection import CentreLoss
from training.forward import as_tuple
from training.group import Group
from training.learner import Learner, Samples, Update
from training.masked import HiddenTokens
from training.next_token import NOTHING, NextToken
from training.objective import Classification, MultiTask, Objective, Part
from training.share import num_judged

NUM_TOKENS, LENGTH = 7, 6


class Writer(nn.Module):
    """Logits `[N, T, V]` for tokens `[N, T]`, and the positions where there are some."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(NUM_TOKENS, 8)
        self.head = nn.Linear(8, NUM_TOKENS)

    def forward(self, ids_NL: Tensor, position_NK: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        logits_NLV: Tensor = self.head(self.token(ids_NL).cumsum(dim=1))
        if position_NK is None:
            return logits_NLV
        index_NKV = position_NK.clamp(min=0)[..., None].expand(-1, -1, NUM_TOKENS)
        return logits_NLV.gather(1, index_NKV), position_NK


class Finder(nn.Module):
    """Heatmap, offsets and sizes of pictures `[N, 1, H, W]`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 5, 3, padding=1)

    def forward(self, picture_N1HW: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.body(picture_N1HW).split([1, 2, 2], dim=1))


def texts(name: str | None = None) -> Samples:
    """Eight texts: of the first half of them one token is judged, of the others all."""
    ids_NL = torch.randint(0, NUM_TOKENS, (8, LENGTH))
    target_NL = torch.where((torch.arange(LENGTH) > 0) & (torch.arange(8) < 4)[:, None], NOTHING, ids_NL)
    return Samples(inputs=(ids_NL,), targets={name: target_NL} if name else target_NL, size=8)


def gaps() -> Samples:
    """Eight texts with one gap each in the first half, and four in the others; one position is of nothing judged."""
    ids_NL = torch.randint(0, NUM_TOKENS, (8, LENGTH))
    position_NK = torch.rand(8, LENGTH).argsort(dim=1)[:, :4]
    position_NK = position_NK.masked_fill((torch.arange(4) > 0) & (torch.arange(8) < 4)[:, None], -1)
    targets = ids_NL.clone()
    targets[7, position_NK[7, 0]] = NOTHING
    return Samples(inputs=(ids_NL, position_NK), targets=targets, size=8)


def pictures() -> Samples:
    """Eight pictures: with no box in the first quarter, one in the second, and three in the others."""
    low_NQ2, size_NQ2 = torch.rand(8, 3, 2) * 0.5, 0.1 + torch.rand(8, 3, 2) * 0.4
    num_N = torch.tensor([0, 0, 1, 1, 3, 3, 3, 3])
    there_NQ1 = (torch.arange(3) < num_N[:, None])[..., None]
    boxes_NQ4 = torch.cat((low_NQ2, low_NQ2 + size_NQ2), dim=2) * there_NQ1
    return Samples(inputs=(torch.randn(8, 1, 12, 12),), targets=boxes_NQ4, size=8)


CASES: dict[str, tuple[Objective, type[nn.Module], Callable[[], Samples]]] = {
    "next token": (NextToken(num_tokens=NUM_TOKENS), Writer, texts),
    "smoothed": (NextToken(num_tokens=NUM_TOKENS, label_smoothing=0.1), Writer, texts),
    "one head": (
        MultiTask(parts=(Part(objective=NextToken(num_tokens=NUM_TOKENS), target="tags", outputs=(0,)),)),
        Writer,
        lambda: texts("tags"),
    ),
    "hidden tokens": (HiddenTokens(num_tokens=NUM_TOKENS), Writer, gaps),
    "boxes": (CentreLoss(), Finder, pictures),
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Apart(Group):
    """One process of several that never meet: what each has made, the test brings together."""

    def sum(self, values: Sequence[float]) -> list[float]:
        return [value * self.size for value in values]

    def joined(self, network: nn.Module, device: str, *, sharded: bool) -> nn.Module:
        return network


Learn = Callable[..., Learner]


@pytest.fixture
def learner(tiny: SimpleNamespace, tmp_path: Path) -> Learn:
    """A learner of the case that is named."""

    def learner(name: str, *, accumulation: int = 1, rank: int = 0, num_processes: int = 1) -> Learner:
        objective, network, _ = CASES[name]
        config = dataclasses.replace(tiny.CONFIG, batch_size=8, accumulation=accumulation)
        recipe = dataclasses.replace(tiny.RECIPE, objective=objective, network=network, augment=None, config=config)
        run = run_folder.Run(folder=tmp_path, num_threads=1, device="cpu")
        return Learner(recipe, run, Apart(rank=rank, size=num_processes), None)

    return learner


def batch_of(name: str) -> Samples:
    torch.manual_seed(1)
    return CASES[name][2]()


def updated(learned: Learner, name: str) -> tuple[Update, list[Tensor]]:
    """What one update came to, and its gradient."""
    done = learned.update(batch_of(name), 0, 10, watched=False)
    return done, gradients(learned.network)


def gradients(network: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("accumulation", [2, 4])
def test_parts_of_a_batch_have_its_loss_and_its_gradient(learner: Learn, name: str, accumulation: int) -> None:
    whole, expected = updated(learner(name), name)
    parts, gradient = updated(learner(name, accumulation=accumulation), name)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)
    assert (parts.loss, parts.score) == pytest.approx((whole.loss, whole.score), rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_processes_have_the_mean_gradient_of_the_whole_batch(learner: Learn, name: str) -> None:
    whole, expected = updated(learner(name), name)
    each = [updated(learner(name, accumulation=2, rank=rank, num_processes=2), name) for rank in range(2)]
    mean = [torch.stack(of).mean(dim=0) for of in zip(*(gradient for _, gradient in each), strict=True)]
    torch.testing.assert_close(mean, expected, atol=1e-6, rtol=1e-5)
    assert sum(update.loss for update, _ in each) / 2 == pytest.approx(whole.loss, rel=1e-5)
    assert sum(update.score for update, _ in each) / 2 == pytest.approx(whole.score, rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_batch_in_one_part_has_the_objectives_own_loss_to_the_bit(learner: Learn, name: str) -> None:
    learned, batch = learner(name), batch_of(name)
    network = copy.deepcopy(learned.network).train()
    outputs = as_tuple(network(*batch.inputs))
    loss = CASES[name][0].loss(outputs, batch.targets)
    loss.backward()  # type: ignore[no-untyped-call]
    done, gradient = updated(learned, name)
    assert done.loss == loss.item()
    assert done.score == CASES[name][0].score(outputs, batch.targets).item()
    assert all(torch.equal(got, expected) for got, expected in zip(gradient, gradients(network), strict=True))


def test_what_is_judged_is_samples_unless_it_is_said() -> None:
    logits = torch.zeros(8, 3)
    assert num_judged(Classification(), [logits], torch.zeros(8)) == 8
    batch = pictures()
    assert num_judged(CentreLoss(), batch.inputs, batch.targets) == 14
    assert num_judged(CentreLoss(), batch.inputs, torch.zeros(8, 3, 4)) == 1
    batch = gaps()
    assert num_judged(HiddenTokens(num_tokens=NUM_TOKENS), batch.inputs, batch.targets) == 4 * 1 + 4 * 4 - 1
    batch = texts()
    assert num_judged(NextToken(num_tokens=NUM_TOKENS), batch.inputs, batch.targets) == 4 * 1 + 4 * LENGTH
