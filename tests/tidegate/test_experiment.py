"""The commands around a run, as a person and as a script sees them, on the quick form of a real recipe."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from tidegate import experiment

COMMANDS = (experiment.size, experiment.report, experiment.sweep, experiment.runs)


def run(*arguments: object) -> Result:
    app = typer.Typer()
    for command in COMMANDS:
        app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def begun(runs: Path, name: str) -> None:
    """A run that stands before its first step."""
    (runs / name).mkdir(parents=True)
    (runs / name / "run.json").write_text(json.dumps({"train": {"epochs": 5}, "objective": {"score_name": "accuracy"}}))


@pytest.mark.parametrize("command", ["size", "report", "sweep", "runs"])
def test_every_commands_help_shows_an_example(command: str) -> None:
    shown = run(command, "--help")
    assert shown.exit_code == 0
    assert f"Example: tidegate {command}" in " ".join(shown.output.split())


def test_a_model_is_sized_before_it_is_trained() -> None:
    found = json.loads(run("size", "fashion-resnet", "--quick", "--steps=5", "--json").output)
    assert found["num_parameters"] == 78_042
    assert found["batch_size"] == 64
    assert found["total_bytes"] == sum(found["memory"].values())
    assert found["duration"]["num_steps"] == 192
    assert 0 < found["duration"]["low_s"] <= found["duration"]["value_s"] <= found["duration"]["high_s"]


def test_a_search_that_runs_out_of_time_says_so_and_goes_on_from_there(tmp_path: Path) -> None:
    arguments = ("sweep", "fashion-resnet", "--quick", "--space", "momentum=0.8..0.95", f"--runs={tmp_path}")
    shown = run(*arguments, "--minutes=0.01")
    assert shown.exit_code == 0, shown.output
    assert "time is up, and the same command goes on from here" in " ".join(shown.output.split())
    assert (tmp_path / "fashion-resnet-quick.sweep" / "sweep.sqlite").is_file()
    assert json.loads(run(*arguments, "--minutes=0.01", "--json").stdout)["ran_out_of_time"]


def test_runs_are_listed_and_reported_from_the_beginning(tmp_path: Path) -> None:
    assert "no run in" in run("runs", f"--runs={tmp_path}").output
    begun(tmp_path, "fashion-resnet")
    shown = run("runs", f"--runs={tmp_path}").output
    assert "fashion-resnet" in shown
    assert "not begun" in shown
    (listed,) = json.loads(run("runs", f"--runs={tmp_path}", "--json").output)
    assert (listed["name"], listed["state"], listed["kept"]) == ("fashion-resnet", "not begun", None)
    (page,) = json.loads(run("report", "fashion-resnet", f"--runs={tmp_path}", "--json").output)
    assert "trained 0 of 5 epochs" in Path(page).read_text()


def test_a_report_without_a_run_names_the_command_that_makes_one(tmp_path: Path) -> None:
    shown = run("report", "fashion-resnet", f"--runs={tmp_path}")
    assert shown.exit_code == 1
    assert "`tidegate train fashion-resnet` makes one" in str(shown.exception)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7_320, "2 h 02 min")]
)
def test_a_duration_is_said_as_people_say_it(seconds: float, said: str) -> None:
    assert experiment.duration(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0 "), (999.4, "999 "), (999.6, "1 k"), (5_373_696, "5.37 M"), (3e18, "3,000 P")]
)
def test_a_large_number_keeps_three_figures(value: float, said: str) -> None:
    assert experiment.si(value) == said
