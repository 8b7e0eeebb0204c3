"""What can keep a measurement from being made.

BenchError
├── LoadError        the load generator saw errors, or counted what the server didn't
├── WrongAnswer      a server answered, but not what the model says
└── ServerError      a server can't be installed, doesn't start, or ended
"""


class BenchError(Exception):
    """The message is one sentence, printed and written into the report in place of figures."""


class LoadError(BenchError):
    """The figures would mean nothing."""


class WrongAnswer(BenchError):
    """A fast server that answers something else isn't compared."""


class ServerError(BenchError):
    """There is nothing to measure."""
