"""The command over a fake Grafana; what is pushed and refused is held in tests/monitoring/test_grafana.py."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from monitoring.boardbook import board_texts
from tests.monitoring.fake_grafana import Grafana, serving
from tidegate.dashboards import push, write
from tidegate.error import CommandError

app = typer.Typer()
app.command()(push)
app.command()(write)


@pytest.fixture
def grafana() -> Iterator[Grafana]:
    with serving(Grafana()) as running:
        yield running


def run(*arguments: str, token: str = "an-admin") -> str:
    environment = {"COLUMNS": "200", "GRAFANA_TOKEN": token}
    result = CliRunner().invoke(app, arguments, env=environment, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_it_says_what_became_of_each_and_then_that_nothing_changed(grafana: Grafana) -> None:
    first = run("push", "--url", grafana.url, "--prometheus", "http://127.0.0.1:9090").splitlines()
    assert first[:2] == ["created   data source Tidegate Prometheus", "created   folder Tidegate"]
    assert first[2] == f"created   board Tidegate / Overview  {grafana.url}/d/tidegate-overview"
    assert len(first) == 7

    assert run("push", "--url", grafana.url).splitlines()[-1] == "nothing was to be changed"
    outcomes = json.loads(run("push", "--url", grafana.url, "--json", "--runbooks", "https://example.org/runbooks"))
    assert [one["outcome"] for one in outcomes] == ["unchanged", *["updated"] * 5]
    assert "https://example.org/runbooks/GatewayAbsent.md" in json.dumps(grafana.boards["tidegate-overview"])


def test_what_is_missing_is_said_before_anything_is_pushed(grafana: Grafana) -> None:
    with pytest.raises(CommandError, match="expected a token"):
        run("push", "--url", grafana.url, token="")
    with pytest.raises(CommandError, match="that a browser can open, got 'docs/runbooks'"):
        run("push", "--url", grafana.url, "--runbooks", "docs/runbooks")
    assert grafana.num_changes == 0


def test_files_are_written_as_they_are_in_the_repository(tmp_path: Path) -> None:
    paths = [Path(line) for line in run("write", str(tmp_path / "boards")).splitlines()]

    assert {path.name: path.read_text(encoding="utf-8") for path in paths} == board_texts()
