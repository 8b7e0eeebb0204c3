"""How Triton is found, started, kept running and kept in step with the model repository; and the engine build."""

from serving.error import (
    EngineBuildFailed,
    EngineError,
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
    "EngineError",
    "EngineUnavailable",
    "LaunchFailed",
    "LoadFailed",
    "PortInUse",
    "RepositoryMissing",
    "RuntimeNotFound",
    "ServingError",
    "TritonUnreachable",
]
