import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from monitoring.prometheus import find_binary
from tidegate.error import CommandError
from tidegate.rules import rules

app = typer.Typer()
app.command()(rules)


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(
        app, [str(argument) for argument in arguments], env={"COLUMNS": "200"}, catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def repository(tmp_path: Path, make_version: Callable[..., Any]) -> Path:
    root = tmp_path / "model_repository"
    make_version(root)
    broken = root / "tiny" / "2"
    broken.mkdir()
    (broken / "contract.json").write_text("{}", encoding="utf-8")
    return root


def test_it_says_what_of_each_contract_is_watched(repository: Path) -> None:
    broken, tiny = json.loads(run("--repository", repository, "--json"))

    assert broken["problem"]
    assert (tiny["model"], tiny["version"], tiny["problem"]) == ("tiny", 1, "")
    assert tiny["latency_threshold_ms"] > 0
    assert {"brightness", "prediction", "confidence"} <= set(tiny["drift_features"])
    assert any("small drifts" in gap for gap in tiny["gaps"])
    shown = run("--repository", repository)
    assert f"within {tiny['latency_threshold_ms']:g} ms" in shown


def test_an_empty_repository_is_no_error(tmp_path: Path) -> None:
    assert "no published version" in run("--repository", tmp_path)


def test_it_writes_what_prometheus_and_alertmanager_accept(tmp_path: Path) -> None:
    targets = ("--gateway", "a:8082", "--gateway", "b:8082", "--triton", "t:8002", "--fast-lane", "f:9098")
    run(
        "--out",
        tmp_path,
        *targets,
        "--alertmanager",
        "m:9093",
        "--webhook",
        "https://bell.example",
        "--runbooks",
        "https://books.example",
    )

    for line in (("promtool", "check", "config", "prometheus.yml"), ("amtool", "check-config", "alertmanager.yml")):
        done = subprocess.run(
            [find_binary(line[0]), *line[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    read = yaml.safe_load((tmp_path / "prometheus.yml").read_text(encoding="utf-8"))
    assert read["scrape_configs"][0]["static_configs"] == [{"targets": ["a:8082", "b:8082"]}]
    assert read["scrape_configs"][-1]["static_configs"] == [{"targets": ["f:9098"]}]
    assert "https://books.example/TritonAbsent.md" in (tmp_path / "rules" / "tidegate.alerts.yml").read_text()


@pytest.mark.parametrize("option", [("--gateway", "nowhere"), ("--webhook", "bell")])
def test_what_is_no_address_is_said_in_a_sentence(tmp_path: Path, option: tuple[str, str]) -> None:
    with pytest.raises(CommandError, match="expected"):
        run("--out", tmp_path, *option)
    assert not list(tmp_path.iterdir())
