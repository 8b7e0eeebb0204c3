"""Which metrics the rules and the dashboard live on: what the gateway and Triton must export for them to show anything.

A dashboard that queries a metric nobody exports looks like a quiet night. Tests hold these sets against the exporters.
"""

from collections.abc import Iterator

from monitoring.dashboard import queries_of, selectors_of
from monitoring.overview import overview
from monitoring.promql import metric_names
from monitoring.rulebook import rule_groups

_OF_PROMETHEUS = frozenset({"up"})  # made by Prometheus itself at every scrape


def used_metrics() -> set[str]:
    """Names of the exported series that rules and dashboard read, histograms as `_bucket`, `_sum` and `_count`."""
    return {name for name in _names() if ":" not in name} - _OF_PROMETHEUS


def undefined_records() -> set[str]:
    """Names in the form of a recording rule that rules or dashboard read but no rule records; should be empty."""
    recorded = {rule.record for group in rule_groups() for rule in group.rules}
    return {name for name in _names() if ":" in name} - recorded


def _names() -> set[str]:
    return {name for expr in _expressions() for name in metric_names(expr)}


def _expressions() -> Iterator[str]:
    for group in rule_groups():
        for rule in group.rules:
            yield rule.expr
    dashboard = overview()
    for _, expr in queries_of(dashboard):
        yield expr
    yield from selectors_of(dashboard)
