"""The errors that monitoring raises on purpose.

MonitoringError
├── BinaryNotFound   prometheus or promtool isn't installed
├── QueryFailed      Prometheus can't be asked, or refused
├── NotWatched       Prometheus knows nothing of a model's drift
└── PushRefused      a Grafana can't be reached, is none, or refused a board
"""


class MonitoringError(Exception):
    """Root of everything this package raises on purpose."""


class BinaryNotFound(MonitoringError):
    """A program of Prometheus isn't on this machine; the message says how to get it."""


class QueryFailed(MonitoringError):
    """Prometheus can't be reached, is none, or refused the query."""


class NotWatched(MonitoringError):
    """No version of a model has a reference profile in Prometheus."""


class PushRefused(MonitoringError):
    """A Grafana can't be reached, is none, or doesn't take what is pushed to it."""
