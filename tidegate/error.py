"""The errors of the command line itself; each message is one sentence, and what a person needs to mend it."""


class CommandError(Exception):
    """A command can't be done."""


class StackError(CommandError):
    """The stack can't be started, or a part of it ended; the message says which, why, and shows its last lines."""


class AskError(CommandError):
    """The gateway can't be reached, or refused the request."""


class ClusterError(CommandError):
    """The Kubernetes cluster can't be asked, or refuses."""
