"""Every alert has a runbook, every runbook an alert, and the commands that they name are there."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
import yaml

from monitoring.inventory import optional_metrics, undefined_records, used_metrics
from monitoring.promql import metric_names
from monitoring.rulebook import alert_groups, rule_groups
from tidegate.command import app

ROOT = Path(__file__).parents[2]
RUNBOOKS = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
ALERTS = {alert.name for group in alert_groups() for alert in group.rules}

# Exported, and read by runbooks only: docs/metrics.md has them all.
DOCUMENTED = set(re.findall(r"`([a-z_]+)(?:\{[^`]*\})?`", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")))

each = pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)


def blocks(path: Path, language: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return [re.sub(r"^   ", "", block, flags=re.M) for block in re.findall(rf"```{language}\n(.*?)```", text, re.S)]


def test_alerts_and_runbooks_are_the_same() -> None:
    assert {path.stem for path in RUNBOOKS} == ALERTS


@each
def test_it_has_the_four_parts_and_a_way_to_look(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert re.findall(r"^#+ (.*)$", text, re.M) == [path.stem, "Meaning", "Impact", "Diagnosis", "Mitigation"]
    assert blocks(path, "promql") or blocks(path, "bash")
    linked = set(re.findall(r"\]\((\w+)\.md\)", text))
    assert linked <= ALERTS - {path.stem}


def test_every_query_is_promql_and_reads_what_there_is(promtool: Callable[..., str], tmp_path: Path) -> None:
    queries = [query for path in RUNBOOKS for query in blocks(path, "promql")]
    recorded = {rule.record for group in rule_groups() for rule in group.rules}
    known = used_metrics() | optional_metrics() | recorded | DOCUMENTED | {"up", "scrape_samples_scraped"}
    rules = [{"record": f"r{i}", "expr": query} for i, query in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}), encoding="utf-8")

    assert f"{len(queries)} rules found" in promtool("check", "rules", "--lint=none", path)
    assert undefined_records() == set()
    read = {name for query in queries for name in metric_names(query)}
    assert {name.removesuffix("_bucket") for name in read} - {name.removesuffix("_bucket") for name in known} == set()


@each
def test_its_commands_are_those_of_the_command_line(path: Path) -> None:
    commands = vars(typer.main.get_command(app))["commands"]
    text = path.read_text(encoding="utf-8")

    assert set(re.findall(r"tidegate ([a-z]+)", text)) <= commands.keys() | {"rules"}
