"""The command line as a script sees it: exit codes, one sentence on failure, JSON where it was asked for."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from contract import Repository
from tidegate.command import app


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


COMMANDS = ("doctor", "recipes", "routes", "train", "publish", "models", "predict", "up", "demo", "schema")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_shows_an_example(command: str) -> None:
    shown = run(command, "--help")
    assert shown.exit_code == 0
    assert f"Example: tidegate {command}" in " ".join(shown.output.split())


def test_doctor_names_all_that_tidegate_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    shown = run("doctor", "--json")
    assert shown.exit_code == 0, shown.output
    checks = {check["name"]: check for check in json.loads(shown.output)}
    assert set(checks) >= {"GPU", "TensorRT", "TensorRT-RTX", "Triton", "Prometheus", "Grafana", "kubectl"}
    assert all(check["meaning"] for check in checks.values())
    assert "nvidia-pytriton" in checks["Triton"]["found"]


def test_doctor_fails_where_something_is_missing_that_serving_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    shown = run("doctor", "--json")
    assert shown.exit_code == 1
    missing = {c["name"]: c["meaning"] for c in json.loads(shown.output) if c["required"] and not c["found"]}
    assert set(missing) == {"Triton", "Prometheus"}
    assert all("make setup" in meaning for meaning in missing.values())


def test_models_lists_a_version_and_why_another_cant_be_used(tiny_repository: Repository) -> None:
    (tiny_repository.version_dir("tiny", 2)).mkdir()
    rows = json.loads(run("models", "--json", f"--repository={tiny_repository.root}", "--triton=127.0.0.1:9").output)
    assert [(row["version"], row["state"]) for row in rows] == [
        (2, "Triton doesn't answer"),
        (1, "Triton doesn't answer"),
    ]
    assert rows[0]["problem"] == "tiny/2/contract.json doesn't exist"
    assert rows[1]["quality"] == "accuracy 1.0000 (0.9900 to 1.0000)"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train", "no-such-recipe"], 1, "recipes that `tidegate recipes` lists, got 'no-such-recipe'"),
        (["up", "--repository=/nonexistent"], 1, "there is no model repository"),
        (["up", "--http-port=99999"], 2, "less than or equal to 65533"),
        (["no-such-command"], 2, "No such command"),
    ],
)
def test_what_cant_be_done_is_one_sentence_and_a_code(arguments: list[str], code: int, said: str) -> None:
    shown = run(*arguments)
    assert shown.exit_code == code
    assert said in " ".join(shown.output.replace("│", " ").split())
    assert "Traceback" not in shown.output


def test_a_gateway_that_cant_be_reached_is_named(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    shown = run("predict", "tiny", str(tmp_path / "a.png"), "--url=http://127.0.0.1:9")
    assert shown.exit_code == 1
    assert "the gateway at http://127.0.0.1:9 can't be reached" in shown.output
