"""Every group of rules and alerts, and the texts of the two files that hold them."""

from collections.abc import Sequence

from monitoring.accuracy import accuracy_alerts, accuracy_group
from monitoring.alert import serving_alerts, upstream_alerts
from monitoring.device import device_alerts, device_group
from monitoring.dispersion import dispersion_group
from monitoring.drift import WINDOWS, Window, drift_groups
from monitoring.drift_alert import PENDING, drift_alerts
from monitoring.fast_lane import fast_lane_alerts, fast_lane_group
from monitoring.objective import objective_alerts, objective_groups
from monitoring.rollout import rollout_alerts, rollout_group
from monitoring.rule import RUNBOOKS, SLOW_INTERVAL_S, Alert, Group, Rule, rule_file
from monitoring.traffic import gateway_group, triton_group
from monitoring.watch import watch_alerts

# Below the folder of the Prometheus configuration.
RULES_FILE = "rules/tidegate.rules.yml"
ALERTS_FILE = "rules/tidegate.alerts.yml"


def rule_groups(
    *, slow_interval_s: int = SLOW_INTERVAL_S, drift_windows: Sequence[Window] = WINDOWS
) -> tuple[Group[Rule], ...]:
    """All groups that record; those that look back over hours are evaluated every `slow_interval_s`, or every fifth."""
    return (
        gateway_group(),
        triton_group(),
        device_group(),
        *objective_groups(slow_interval_s),
        rollout_group(slow_interval_s),
        *drift_groups(drift_windows, slow_interval_s),
        dispersion_group(slow_interval_s),
        fast_lane_group(),
        accuracy_group(slow_interval_s),
    )


def alert_groups(
    *,
    slow_interval_s: int = SLOW_INTERVAL_S,
    drift_windows: Sequence[Window] = WINDOWS,
    drift_pending: str = PENDING,
) -> tuple[Group[Alert], ...]:
    """All groups of alerts; they read what `rule_groups` records at the same interval over the same windows."""
    return (
        serving_alerts(),
        upstream_alerts(),
        device_alerts(),
        objective_alerts(slow_interval_s),
        rollout_alerts(),
        drift_alerts(drift_windows, drift_pending),
        fast_lane_alerts(),
        accuracy_alerts(),
        watch_alerts(),
    )


def rules_text(*, slow_interval_s: int = SLOW_INTERVAL_S, drift_windows: Sequence[Window] = WINDOWS) -> str:
    """Text of the file of recording rules."""
    return rule_file(rule_groups(slow_interval_s=slow_interval_s, drift_windows=drift_windows))


def alerts_text(
    *,
    slow_interval_s: int = SLOW_INTERVAL_S,
    drift_windows: Sequence[Window] = WINDOWS,
    drift_pending: str = PENDING,
    runbooks: str = RUNBOOKS,
) -> str:
    """Text of the file of alerts; `runbooks` is the folder or address that holds `<Alert>.md`."""
    groups = alert_groups(slow_interval_s=slow_interval_s, drift_windows=drift_windows, drift_pending=drift_pending)
    return rule_file(groups, runbooks=runbooks)
