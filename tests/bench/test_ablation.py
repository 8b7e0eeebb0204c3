from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console

from bench.ablation import CONFIG, AblationResult, Known, Outcome, Plan, Row, run
from bench.ablation_page import COMMAND, draw, markdown, noise, rows, write
from bench.choice import CHOICES
from bench.machine import Machine
from bench.page import END, mark
from training.config import ScheduleName
from training.network.initialisation import Scheme

PLAN = Plan(
    choices=CHOICES[:2],
    seeds=(1, 2),
    config=replace(CONFIG, epochs=1, num_train=256, batch_size=64),
    num_judged=200,
)


def row(name: str, *accuracy: float | None) -> Row:
    outcomes = (
        Outcome(seed=seed) if value is None else Outcome(seed=seed, accuracy=value, log_loss=0.5, cpu_s=9.6)
        for seed, value in enumerate(accuracy)
    )
    return Row(topic="dropout", name=name, outcomes=tuple(outcomes))


@pytest.fixture
def result(machine: Machine) -> AblationResult:
    table = (row("a", 0.84, 0.85, 0.86), row("b", 0.80, 0.82, 0.84), row("c", 0.9, None, 0.9), row("d", 0.1, 0.1, 0.1))
    return AblationResult(machine=machine, rows=table)


def test_a_finished_run_is_not_trained_again_and_a_new_one_comes_out_the_same(tmp_path: Path) -> None:
    console = Console(quiet=True)
    first = run(tmp_path / "a", console, PLAN)
    file = tmp_path / "a" / "ablation.json"
    assert [len(row.outcomes) for row in first.rows] == [2, 2]
    assert len({outcome.accuracy for row in first.rows for outcome in row.outcomes}) > 1
    assert not any((tmp_path / "a" / "ablation").iterdir())

    told = {key: outcome.model_copy(update={"cpu_s": 1.0}) for key, outcome in Known.load(file).outcomes.items()}
    Known(outcomes=told).save(file)
    again = run(tmp_path / "a", console, PLAN)
    assert {outcome.cpu_s for row in again.rows for outcome in row.outcomes} == {1.0}

    (anew,) = run(tmp_path / "b", console, replace(PLAN, choices=CHOICES[1:2], seeds=(2,))).rows
    expected = first.rows[1].outcomes[1]
    assert (anew.outcomes[0].accuracy, anew.outcomes[0].log_loss) == (expected.accuracy, expected.log_loss)


def test_every_switch_is_in_the_table() -> None:
    recipes = [(choice, choice.recipe(1, CONFIG)) for choice in CHOICES]
    assert {choice.switches.initialisation for choice in CHOICES} == set(get_args(Scheme))
    assert {choice.switches.normalisation for choice in CHOICES} == {"batch", "layer", "none"}
    assert {recipe.config.schedule for _, recipe in recipes} == set(get_args(ScheduleName))
    assert {recipe.config.optimizer for _, recipe in recipes} == {"sgd", "adam", "adamw"}
    described = [(choice.switches, recipe.describe()) for choice, recipe in recipes]
    assert all(described.index(each) == index for index, each in enumerate(described))


def test_the_table_says_means_spread_and_what_diverged(result: AblationResult) -> None:
    a, b, c, d = rows(result)
    assert a == ("dropout", "a", "0.8500", "0.8400 to 0.8600", "+0.0", "0.500", "10 s")
    assert b[:2] == ("", "b")
    assert b[4] == "-3.0"
    assert c[2:] == ("diverged with 1 of 3 seeds", "", "", "", "")
    assert d[4] == "-75.0"


@pytest.mark.parametrize("first", [(None, None, None), (0.84, None, 0.86)])
def test_nothing_is_held_against_a_first_row_that_diverged(
    first: tuple[float | None, ...], result: AblationResult, tmp_path: Path
) -> None:
    without = result.model_copy(update={"rows": (row("a", *first), *result.rows[1:])})
    a, b, _, d = rows(without)
    assert a[2].startswith("diverged with ")
    assert (b[2], b[4]) == ("0.8200", "")
    assert (d[2], d[4]) == ("0.1000", "")
    draw(without, tmp_path / "ablation.png")
    assert (tmp_path / "ablation.png").stat().st_size > 5_000


def test_the_table_says_that_its_network_is_not_the_recipes(result: AblationResult) -> None:
    assert (
        "The network isn't the recipe's: it has 16, 16 and 32 channels and 64 hidden units, 40,282 parameters where "
        "that of `fashion-vgg` has 147,162.\n" in markdown(result)
    )


def test_the_page_says_how_early_the_trainings_end(result: AblationResult) -> None:
    """8,192 pictures in batches of 128, five times."""
    said = (
        "After these 320 steps the first row has 0.8500, and logistic regression on 10,000 pictures has 0.8351 (on the "
        "test split, see [recipes](recipes.md)): what a choice costs or gains this early says little about a long "
        "training.\n"
    )
    assert said in markdown(result)
    diverged = result.model_copy(update={"rows": (row("a", None, None, None), *result.rows[1:])})
    assert "logistic" not in markdown(diverged)


def test_the_noise_is_that_of_the_typical_row(result: AblationResult) -> None:
    """Variances 1e-4, 4e-4 and 0, of which the median is 1e-4; three runs have (8/9)^3 of the mean as a median."""
    assert noise(result.rows) == pytest.approx(1.96 * (2 / 3 * 1e-4 / (8 / 9) ** 3) ** 0.5)
    assert noise([row("a", 0.5), row("b", 0.6)]) == 0.0


def test_the_figures_take_their_place_in_the_page(result: AblationResult, tmp_path: Path) -> None:
    (tmp_path / "ablation.md").write_text(f"before\n{mark(COMMAND)}\nold\n{END}\nafter\n")
    write(result, tmp_path)
    page = (tmp_path / "ablation.md").read_text()
    assert page == f"before\n{mark(COMMAND)}\n\n{markdown(result)}\n{END}\nafter\n"
    assert (tmp_path / "ablation.png").stat().st_size > 5_000
