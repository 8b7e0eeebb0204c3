"""Every group of rules, and the text of the one rule file that holds them."""

from monitoring.drift import INTERVAL_S, drift_group
from monitoring.rule import Group, rule_file
from monitoring.traffic import gateway_group, triton_group

RULES_FILE = "rules/tidegate.rules.yml"  # below the folder of the Prometheus configuration


def rule_groups(*, drift_interval_s: int = INTERVAL_S) -> tuple[Group, ...]:
    """All groups; drift looks back over an hour, so it is evaluated less often than the rest."""
    return gateway_group(), triton_group(), drift_group(drift_interval_s)


def rules_text(*, drift_interval_s: int = INTERVAL_S) -> str:
    """Text of the rule file."""
    return rule_file(rule_groups(drift_interval_s=drift_interval_s))
