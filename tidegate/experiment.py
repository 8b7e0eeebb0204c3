"""Before and beside a run: how large a model is, how runs stand, a run's report, and a search for a better one."""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tidegate.error import CommandError
from tidegate.terminal import (
    REPOSITORY,
    RUNS,
    DataOption,
    JsonOption,
    QuickOption,
    RepositoryOption,
    RunsOption,
    console,
    progress,
)

if TYPE_CHECKING:
    from training.data import Dataset
    from training.recipe import Recipe
    from training.size import Size
    from training.sweep import Sweep, Trial

RecipeArgument = Annotated[str, typer.Argument(help="Name of the recipe; `tidegate recipes` lists them.")]


def size(
    recipe: RecipeArgument,
    data: DataOption = None,
    quick: QuickOption = False,
    steps: Annotated[int, typer.Option(min=5, max=10_000, help="Steps to measure the time of.")] = 40,
    json_: JsonOption = False,
) -> None:
    """Say what a model is and needs before it is trained: parameters, operations, memory, and the time of a run.

    Example: tidegate size fashion-resnet
    """
    from training.size import measure

    found = _recipe(recipe, quick)
    dataset = _dataset(found, data)
    measured = measure(found, dataset, num_measured=steps)
    if json_:
        _print_json({**asdict(measured), "total_bytes": measured.memory.total_bytes})
    else:
        console.print(_size_table(found, measured))


def report(
    recipe: RecipeArgument,
    runs: RunsOption = RUNS,
    repository: RepositoryOption = REPOSITORY,
    data: DataOption = None,
    quick: QuickOption = False,
    json_: JsonOption = False,
) -> None:
    """Write the report of a recipe's run, finished or not: curves, quality, mistakes, calibration, slices, origin.

    Example: tidegate report fashion-resnet
    """
    from contract import Repository
    from training import report as pages
    from training.run_folder import RUN_FILE
    from training.standing import standing

    found = _recipe(recipe, quick)
    folder = runs / found.name
    if not (folder / RUN_FILE).is_file():
        raise CommandError(f"{folder} holds no run of {found.name}: `tidegate train {recipe}` makes one")
    if (seen := standing(folder)).problem:
        raise CommandError(seen.problem)
    found = replace(found, config=seen.config)  # what the run was made with, whatever the recipe says now
    findings = pages.of_run(folder, found)
    if findings.progress.epochs:
        findings = pages.judged(findings, folder, _dataset(found, data))
        findings = pages.with_version(findings, Repository(repository))
    written = pages.write(folder, findings)
    if json_:
        _print_json([str(path) for path in written])
    else:
        typer.echo("\n".join(map(str, written)))


def sweep(
    recipe: RecipeArgument,
    space: Annotated[
        list[str] | None,
        typer.Option(help="What to search: NAME=LOW..HIGH[:log] or NAME=A,B,...; the rate and decay without it."),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, max=100_000, help="Finished trials, in all.")] = 20,
    minutes: Annotated[float, typer.Option(min=0.01, max=1e6, help="Time for this call; the next one goes on.")] = 60,
    runs: RunsOption = RUNS,
    data: DataOption = None,
    quick: QuickOption = False,
    json_: JsonOption = False,
) -> None:
    """Search for better hyperparameters, going on where the last search was interrupted.

    Example: tidegate sweep fashion-resnet --space peak_learning_rate=0.01..0.5:log --space batch_size=64,128
    """
    from training.space import default_space, parse
    from training.sweep import sweep as search

    found = _recipe(recipe, quick).begun(runs)
    dataset = _dataset(found, data)
    wanted = parse(space, found.config) if space else found.space or default_space(found.config)
    shown = progress(json_)
    result = search(
        found,
        dataset,
        wanted,
        runs_dir=runs,
        num_trials=trials,
        timeout_s=60 * minutes,
        tried=lambda trial: shown.print(_trial_line(trial), highlight=False),
    )
    if json_:
        _print_json(asdict(result))
    else:
        _show_sweep(result, shown)


def runs(runs: RunsOption = RUNS, json_: JsonOption = False) -> None:
    """List the runs, the latest first: how far each has come, and how good it is.

    Example: tidegate runs
    """
    from training.standing import standings

    found = standings(runs)
    if json_:
        _print_json([{**asdict(run), "state": run.state, "kept": run.kept and asdict(run.kept)} for run in found])
        return
    if not found:
        typer.echo(f"no run in {runs}; `tidegate train RECIPE` makes one")
        return
    table = Table("run", "state", "validation", "time", "last written", box=None)
    for run in found:
        score = f"{run.score_name} {run.kept.validation_score:.4f}" if run.kept else ""
        ago = time.time() - run.updated_at
        table.add_row(run.name, run.state, score, duration(run.progress.time_s), f"{duration(ago)} ago")
    console.print(table)


def _recipe(name: str, quick: bool) -> "Recipe":
    from training import find

    found = find(name)
    return found.quick() if quick else found


def _dataset(recipe: "Recipe", data: Path | None) -> "Dataset":
    return recipe.load(data).limited(recipe.config.num_train)


def _size_table(recipe: "Recipe", measured: "Size") -> Table:
    memory, took = measured.memory, measured.duration
    frozen = measured.num_parameters - measured.num_trainable
    table = Table(title=recipe.name, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for name, value, remark in (
        ("parameters", f"{measured.num_parameters:,}", f"{frozen:,} of them frozen" if frozen else ""),
        ("operations", f"{si(measured.flops_per_sample)}FLOP", "a sample, forward; a multiply and an add are two"),
        ("memory", f"{si(memory.total_bytes)}B", f"a training step on {measured.batch_size} samples"),
        ("  weights", f"{si(memory.weights_bytes)}B", ""),
        ("  gradients", f"{si(memory.gradients_bytes)}B", ""),
        ("  optimizer", f"{si(memory.optimizer_bytes)}B", recipe.config.optimizer),
        (
            "  activations",
            f"{si(memory.activations_bytes)}B",
            "kept for the backward pass, which needs more for a moment",
        ),
        (
            "time",
            duration(took.value_s),
            f"{took.num_steps:,} steps; 95 % interval {duration(took.low_s)} to {duration(took.high_s)},"
            f" from {took.num_measured} steps on this {took.device} as busy as it is now",
        ),
    ):
        table.add_row(f"[bold]{name}[/]", value, f"[dim]{remark}[/]")
    return table


def _show_sweep(result: "Sweep", shown: Console) -> None:
    """The values to write into the recipe, and what mattered."""
    done = sum(trial.state == "done" for trial in result.trials)
    late = "; time is up, and the same command goes on from here" if result.ran_out_of_time else ""
    shown.print(f"{len(result.trials)} trials, {done} of them trained to the end{late}", highlight=False)
    if result.best is None:
        return
    values = ", ".join(f"{name}={value!r}" for name, value in result.best.values.items())
    shown.print(f"best is trial {result.best.number}, with a validation score of {result.best.score:.4f}:")
    shown.print(f"  TrainConfig(..., {values})", soft_wrap=True)
    if result.importance:
        table = Table("what mattered", "share", box=None)
        for name, share in result.importance.items():
            table.add_row(name, f"{share:.0%}")
        shown.print(table)


def _trial_line(trial: "Trial") -> str:
    values = " ".join(f"{name}={f'{v:.4g}' if isinstance(v, float) else v}" for name, v in trial.values.items())
    score = "diverged" if trial.score is None else f"{trial.score:.4f}"
    return f"trial {trial.number:>3}  {score:>8}  {trial.state:<8}  {values}"


def si(value: float) -> str:
    """Four figures at most, with the prefix of a thousand's power behind them."""
    for prefix in ("", "k", "M", "G", "T"):
        if value < 999.5:
            return f"{value:.3g} {prefix}"
        value /= 1_000
    return f"{value:,.0f} P"


def duration(seconds: float) -> str:
    """The two largest units of it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=1))
