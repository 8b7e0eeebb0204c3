"""How Triton is found, started, kept running and kept in step with the model repository; and the engine build."""

from serving.error import (
    EngineBuildFailed,
    EngineBusy,
    EngineError,
    EngineRefused,
    EngineUnavailable,
    LaunchFailed,
    LoadFailed,
    PortInUse,
    RepositoryMissing,
    RuntimeNotFound,
    ServingError,
    TritonUnreachable,
)

__all__ = [
    "EngineBuildFailed",
    "EngineBusy",
    "EngineError",
    "EngineRefused",
    "EngineUnavailable",
    "LaunchFailed",
    "LoadFailed",
    "PortInUse",
    "RepositoryMissing",
    "RuntimeNotFound",
    "ServingError",
    "TritonUnreachable",
]
