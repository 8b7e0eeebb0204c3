"""The search: bounded, seeded, and after a kill the same as if there had been none."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from training.config import TrainConfig
from training.error import LockTimeout
from training.lock import exclusive
from training.space import Between, OneOf, SpaceInvalid, default_space, parse
from training.sweep import Sweep, Trial, sweep, sweep_folder

SPACE = {"peak_learning_rate": Between(low=1e-4, high=1.0, log=True), "batch_size": OneOf(values=(16, 32))}


class Killed(BaseException):
    """Stands for the signal: nothing catches it."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on two threads, and far slower on two that are busy elsewhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def search(tiny: SimpleNamespace, tmp_path: Path) -> Callable[..., Sweep]:
    recipe = replace(tiny.RECIPE, config=TrainConfig(epochs=2, batch_size=16))

    def run(*, name: str = "runs", num_trials: int = 4, timeout_s: float = 1e6, **options: object) -> Sweep:
        where = tmp_path / name
        return sweep(recipe, tiny.load(), SPACE, runs_dir=where, num_trials=num_trials, timeout_s=timeout_s, **options)  # type: ignore[arg-type]  # options are sweep's own

    return run


def shown(found: Sweep) -> list[tuple[str, dict[str, object], float | None]]:
    return [(trial.state, dict(trial.values), trial.score) for trial in found.trials]


def test_a_search_begins_with_the_recipe_and_names_its_best(search: Callable[..., Sweep], tmp_path: Path) -> None:
    told: list[Trial] = []
    found = search(num_trials=9, tried=told.append)
    assert [*found.trials] == told
    assert len(found.trials) == 9
    assert found.trials[0].values == {"peak_learning_rate": 0.1, "batch_size": 16}
    assert found.best is not None
    done = [trial.score for trial in found.trials if trial.state == "done" and trial.score is not None]
    assert found.best.score == max(done)
    assert {name: getattr(found.config, name) for name in SPACE} == found.best.values
    assert found.config.epochs == 2
    assert set(found.importance) == set(SPACE)
    assert sum(found.importance.values()) == pytest.approx(1)
    assert {path.name for path in (tmp_path / "runs" / "bands.sweep").iterdir()} == {"sweep.sqlite", "lock"}


def test_a_search_that_was_killed_tries_what_it_would_have_tried(search: Callable[..., Sweep]) -> None:
    whole = search(name="whole", num_trials=4)
    ticks = iter(range(10**6))

    def killed_in_the_second_trial() -> float:
        if next(ticks) > 30:  # the clock is read at every step; a trial has 10 or 20 of them
            raise Killed
        return 0.0

    with pytest.raises(Killed):
        search(name="killed", num_trials=4, clock=killed_in_the_second_trial)
    assert shown(search(name="killed", num_trials=4)) == shown(whole)


def test_time_ends_a_search_in_the_middle_of_a_trial(search: Callable[..., Sweep]) -> None:
    seconds = iter(range(10**6))
    found = search(timeout_s=25, clock=lambda: float(next(seconds)))
    assert found.ran_out_of_time
    assert len(found.trials) < 4
    assert search(num_trials=len(found.trials) + 1).trials[: len(found.trials)] == found.trials


def test_a_finished_search_is_left_as_it_is(search: Callable[..., Sweep]) -> None:
    first = search(num_trials=2)
    told: list[Trial] = []
    assert search(num_trials=2, tried=told.append) == first
    assert told == []


def test_only_one_process_searches(search: Callable[..., Sweep], tiny: SimpleNamespace, tmp_path: Path) -> None:
    with exclusive(sweep_folder(tmp_path / "runs", tiny.RECIPE) / "lock", "a test"), pytest.raises(LockTimeout):
        search()


def test_a_space_is_read_from_words() -> None:
    space = parse(["peak_learning_rate=1e-3..0.5:log", "epochs=2..9", "optimizer=sgd,adamw", "patience=none,3"], CONFIG)
    assert space == {
        "peak_learning_rate": Between(low=1e-3, high=0.5, log=True),
        "epochs": Between(low=2, high=9),
        "optimizer": OneOf(values=("sgd", "adamw")),
        "patience": OneOf(values=(None, 3)),
    }


CONFIG = TrainConfig(epochs=2, batch_size=16)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs", "expected NAME=LOW..HIGH"),
        ("epochs=", "expected NAME=LOW..HIGH"),
        ("epochs=9..2", "epochs: expected a lower bound below the upper one, got 9 and 2"),
        ("weight_decay=0..1:log", "a logarithmic scale needs bounds above 0"),
        ("epochs=2..9:cubic", "expected no scale or log, got 'cubic'"),
        ("epochs=a..b", "expected two numbers with .. between them"),
        ("epochs=3", "expected at least two different values"),
        ("seed=1,2", "expected one of"),
        ("speed=1,2", "expected one of"),
        ("momentum=0.5..2", "momentum: expected"),
    ],
)
def test_a_space_that_cant_be_searched_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(SpaceInvalid, match=r"^[^\n]*$") as caught:
        parse([text], CONFIG)
    assert said in str(caught.value)


def test_without_a_space_the_rate_and_the_decay_are_searched_around_the_recipes_own() -> None:
    assert set(default_space(CONFIG)) == {"peak_learning_rate", "weight_decay"}
    assert set(default_space(replace(CONFIG, weight_decay=0.0))) == {"peak_learning_rate"}
