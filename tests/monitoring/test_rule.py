import subprocess
from pathlib import Path

import pytest
import yaml

from monitoring.prometheus import find_binary
from monitoring.rule import Group, Rule, rule_file
from monitoring.rulebook import rule_groups

HERE = Path(__file__).parent
MONITORING = HERE.parents[1] / "monitoring"


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        [find_binary("promtool"), *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", MONITORING / "rules" / "tidegate.rules.yml")


@pytest.mark.parametrize("path", sorted(HERE.glob("*.test.yml")), ids=lambda path: path.name)
def test_rules_say_what_on_call_should_see(path: Path) -> None:
    promtool("test", "rules", path)


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
