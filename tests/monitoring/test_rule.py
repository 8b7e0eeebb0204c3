from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from monitoring.rule import Group, Rule, rule_file
from monitoring.rulebook import rule_groups

HERE = Path(__file__).parent
MONITORING = HERE.parents[1] / "monitoring"


Promtool = Callable[..., str]


@pytest.mark.parametrize("name", ["tidegate.rules.yml", "tidegate.alerts.yml"])
def test_promtool_accepts_the_rules(promtool: Promtool, name: str) -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", MONITORING / "rules" / name)


@pytest.mark.parametrize("path", sorted(HERE.glob("*.test.yml")), ids=lambda path: path.name)
def test_rules_say_what_on_call_should_see(hold: Callable[..., None], path: Path) -> None:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))

    hold(*document["tests"], every=document["evaluation_interval"])


def test_every_rule_with_one_name_differs_in_its_labels() -> None:
    rules = [(rule.record, *sorted(rule.labels.items())) for group in rule_groups() for rule in group.rules]

    assert len(set(rules)) == len(rules)


def test_a_rule_file_is_read_back_as_written() -> None:
    rule = Rule(record="model:gateway_batch_size:mean_rate5m", expr='sum(a{b="c"})\n/ d', labels={"quantile": "0.5"})

    read = yaml.safe_load(rule_file([Group(name="g", rules=(rule,), interval_s=60)]))

    assert read == {
        "groups": [
            {
                "name": "g",
                "interval": "60s",
                "rules": [{"record": rule.record, "expr": rule.expr, "labels": {"quantile": "0.5"}}],
            }
        ]
    }


@pytest.mark.parametrize("name", ["gateway_requests_total", "model:gateway_requests", "a:b:c:d"])
def test_a_rule_is_named_level_metric_operations(name: str) -> None:
    with pytest.raises(ValueError, match="level:metric:operations"):
        Rule(record=name, expr="up")
