"""Recording and alerting rules as values, and the files that Prometheus reads them from.

Records are named `level:metric:operations`: the labels that are left, the metric without `_total` where it was rated,
and what was done to it with which window, newest first.
Source: https://prometheus.io/docs/practices/rules/
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import yaml

HEADER = "# Made by `python -m monitoring`. Don't edit: change the code of monitoring/ instead.\n"
SLOW_INTERVAL_S = 60  # of groups that look back over hours
RECENT = "11m"  # holds two of the times at which every fifth evaluation of those happens

# For summaries.
OF = "{{ $labels.model }} version {{ $labels.version }}"
PERCENT = "{{ $value | humanizePercentage }}"

RUNBOOKS = "docs/runbooks"  # in this repository; an address that people can click on is better

# critical wakes someone now, warning waits for working hours, info is for the board; none is the watchdog's.
Severity = Literal["critical", "warning", "info", "none"]
Team = Literal["platform", "model"]  # who runs the servers, and who made the model


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
class Alert:
    """One alerting rule: it fires for each series that `expr` has given for the time `pending`.

    `summary` is one sentence with the figures; it may hold Prometheus' templates, such as `{{ $labels.model }}`.
    """

    name: str
    expr: str
    severity: Severity
    team: Team
    summary: str
    pending: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"([A-Z][a-z0-9]+)+", self.name):
            raise ValueError(f"an alert is named like TritonAbsent, got {self.name!r}")


AnyRule = TypeVar("AnyRule", Rule, Alert, covariant=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Group(Generic[AnyRule]):
    """Rules evaluated one after the other at the same instant, so a rule may read those above it.

    `interval_s` in seconds; None means the evaluation interval of the configuration.
    """

    name: str
    rules: tuple[AnyRule, ...]
    interval_s: int | None = None


def recent(series: str) -> str:
    """The last value of what is evaluated every five minutes, and would flicker otherwise."""
    return f"last_over_time({series}[{RECENT}])"


def rule_file(groups: Sequence[Group[Rule] | Group[Alert]], *, runbooks: str = RUNBOOKS) -> str:
    """Text of a rule file; `runbooks` is the folder or address below which each alert has its `<Alert>.md`."""
    document = {"groups": [_group(group, runbooks) for group in groups]}
    return HEADER + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


def _group(group: Group[Rule] | Group[Alert], runbooks: str) -> dict[str, Any]:
    interval = {} if group.interval_s is None else {"interval": f"{group.interval_s}s"}
    return {"name": group.name, **interval, "rules": [_rule(rule, runbooks) for rule in group.rules]}


def _rule(rule: Rule | Alert, runbooks: str) -> dict[str, Any]:
    if isinstance(rule, Rule):
        return {"record": rule.record, "expr": rule.expr, **({"labels": dict(rule.labels)} if rule.labels else {})}
    return {
        "alert": rule.name,
        "expr": rule.expr,
        **({"for": rule.pending} if rule.pending else {}),
        "labels": {"severity": rule.severity, "team": rule.team, **rule.labels},
        "annotations": {"summary": rule.summary, "runbook_url": f"{runbooks.rstrip('/')}/{rule.name}.md"},
    }


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a literal block, as a person would."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)
