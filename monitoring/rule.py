"""Recording rules as values, and the file that Prometheus reads them from.

Names follow `level:metric:operations`: the labels that are left, the metric without `_total` where it was rated, and
what was done to it with which window, newest first.
Source: https://prometheus.io/docs/practices/rules/
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

HEADER = "# Made by `python -m monitoring`. Don't edit: change the code of monitoring/ instead.\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One recording rule: the series `record`, with `labels` added, is the value of `expr`."""

    record: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.record.count(":") != 2:
            raise ValueError(f"a recording rule is named level:metric:operations, got {self.record!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Rules evaluated one after the other at the same instant, so a rule may read those above it.

    `interval_s` in seconds; None means the evaluation interval of the configuration.
    """

    name: str
    rules: tuple[Rule, ...]
    interval_s: int | None = None


def rule_file(groups: Sequence[Group]) -> str:
    """Text of a rule file."""
    document = {"groups": [_group(group) for group in groups]}
    return HEADER + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


def _group(group: Group) -> dict[str, Any]:
    interval = {} if group.interval_s is None else {"interval": f"{group.interval_s}s"}
    return {"name": group.name, **interval, "rules": [_rule(rule) for rule in group.rules]}


def _rule(rule: Rule) -> dict[str, Any]:
    labels = {"labels": dict(rule.labels)} if rule.labels else {}
    return {"record": rule.record, "expr": rule.expr, **labels}


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a literal block, as a person would."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)
