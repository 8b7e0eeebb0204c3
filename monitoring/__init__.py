"""What Prometheus scrapes and records, the drift arithmetic, and the dashboard, all made by code."""

from monitoring.error import BinaryNotFound, MonitoringError
from monitoring.prometheus import command, configuration, find_binary, write_configuration
from monitoring.promql import metric_names

__all__ = [
    "BinaryNotFound",
    "MonitoringError",
    "command",
    "configuration",
    "find_binary",
    "metric_names",
    "write_configuration",
]
