"""The errors that serving raises.

ServingError
├── RuntimeNotFound       no Triton on this machine, or one that can't run here
├── LaunchFailed          Triton was started and isn't healthy
│   └── PortInUse         something else listens where Triton should
├── TritonUnreachable     Triton doesn't answer
├── LoadFailed            Triton refuses to load a model
├── RepositoryMissing     the folder of the model repository isn't there
└── EngineError
    ├── EngineUnavailable     no builder that works on this machine
    │   └── EngineBusy        another process is building this engine
    ├── EngineBuildFailed     the model can't be made into an engine
    └── EngineRefused         an engine can't be loaded, or doesn't answer what its graph answers

The first line of each message is one sentence; only LaunchFailed goes on, with the last lines of Triton's log.
"""


class ServingError(Exception):
    """Root of everything this package raises on purpose."""


class RuntimeNotFound(ServingError):
    """No Triton was found, or the one found can't run on this machine."""


class LaunchFailed(ServingError):
    """Triton was started but didn't become healthy."""


class PortInUse(LaunchFailed):
    """A port that Triton should listen on is taken."""


class TritonUnreachable(ServingError):
    """Triton doesn't answer, or not in time."""


class LoadFailed(ServingError):
    """Triton refuses a model; `versions` says why by version where Triton names them."""

    def __init__(self, message: str, versions: dict[int, str] | None = None) -> None:
        super().__init__(message)
        self.versions = versions or {}


class RepositoryMissing(ServingError):
    """The model repository's folder doesn't exist."""


class EngineError(ServingError):
    """Building an engine failed."""


class EngineUnavailable(EngineError):
    """No engine builder works on this machine."""


class EngineBusy(EngineUnavailable):
    """Another process is building this engine: it may be there later."""


class EngineBuildFailed(EngineError):
    """The parser or the builder refuses the model; the message holds every error they gave."""


class EngineRefused(EngineError):
    """An engine can't be loaded, or doesn't answer what its graph answers."""
