"""Which metrics the rules, the alerts and the boards live on: what must be exported for them to show anything.

A dashboard that queries a metric nobody exports looks like a quiet night. Tests hold these sets against the exporters.
"""

from collections.abc import Iterator

from monitoring.boardbook import board_texts
from monitoring.promql import metric_names
from monitoring.question import queries_of, selectors_of
from monitoring.rulebook import alert_groups, rule_groups

# Made by Prometheus itself, at every scrape and for every alert.
_OF_PROMETHEUS = frozenset({"up", "scrape_samples_scraped", "ALERTS", "ALERTS_FOR_STATE"})

# What isn't always there, and why; the rules are written so that they do without.
OPTIONAL = {
    "DCGM_FI_DEV_": "where NVIDIA's DCGM exporter runs",
    "gateway_shadow_": "while a route has a shadow",
    "inference_feedback_": "where feedback is switched on",
    "inference_feature_evidence": "where the fast lane runs",
    "inference_feature_dispersion": "where somebody exports it; what the rules measure otherwise",
    "inference_feature_drift_floor": "where it was measured; the window's floor otherwise",
    "inference_confidence_accuracy_ratio": "for contracts that hold the accuracy of each confidence bin",
    "model_evaluation_": "for contracts whose evaluation has an accuracy",
    "model_created_timestamp_seconds": "for contracts; pass-through models have no date",
}


def used_metrics() -> set[str]:
    """Exported series that are read and must be there, histograms as `_bucket`, `_sum` and `_count`."""
    return {name for name in _exported() if not name.startswith(tuple(OPTIONAL))}


def optional_metrics() -> set[str]:
    """Exported series that are read where they are there; `OPTIONAL` says when."""
    return _exported() - used_metrics()


def undefined_records() -> set[str]:
    """Names in the form of a recording rule that something reads but no rule records; should be empty."""
    recorded = {rule.record for group in rule_groups() for rule in group.rules}
    return {name for name in _names() if ":" in name} - recorded


def _exported() -> set[str]:
    return {name for name in _names() if ":" not in name} - _OF_PROMETHEUS


def _names() -> set[str]:
    return {name for expr in _expressions() for name in metric_names(expr)}


def _expressions() -> Iterator[str]:
    for group in rule_groups():
        yield from (rule.expr for rule in group.rules)
    for alerts in alert_groups():
        yield from (alert.expr for alert in alerts.rules)
    for text in board_texts().values():
        yield from (expr for _, expr in (*queries_of(text), *selectors_of(text)))
