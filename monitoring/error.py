"""The errors that monitoring raises on purpose.

MonitoringError
└── BinaryNotFound   prometheus or promtool isn't installed
"""


class MonitoringError(Exception):
    """Root of everything this package raises on purpose."""


class BinaryNotFound(MonitoringError):
    """A program of Prometheus isn't on this machine; the message says how to get it."""
