"""The engine builder of this machine, and the differences between the two there are.

- `tensorrt` (10.x and 11.x) needs a GPU and builds for exactly that GPU.
- `tensorrt_rtx` has the same Python API, and builds ahead of time, without a GPU, for a list of compute capabilities.
  It is how parsing, profile and build are proven where there is no GPU. Triton can't load its engines.

Precision is in the graph: networks are strongly typed, which TensorRT 11 always does.
Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/
"""

import functools
import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from serving.error import EngineUnavailable
from serving.gpu import Gpu, find_gpu

BuilderName = Literal["tensorrt", "tensorrt-rtx"]
Progress = Callable[[str, float], None]

# 9.0 isn't among those TensorRT-RTX knows; 7.5 is, but has no FP32 matrix product: ask for it by name with FP16 graphs.
RTX_COMPUTE_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Builder:
    """A builder that works here, and what it builds for."""

    name: BuilderName
    module: ModuleType
    version: str
    compute_capabilities: tuple[str, ...]
    gpu: Gpu | None

    @property
    def engine_file(self) -> str:
        """Name of the engine beside the ONNX file: the suffix keeps what Triton can't load apart."""
        return "model.plan" if self.name == "tensorrt" else "model.rtx"

    @property
    def title(self) -> str:
        """Product and version."""
        return f"{'TensorRT' if self.name == 'tensorrt' else 'TensorRT-RTX'} {self.version}"

    @property
    def description(self) -> str:
        """For people: which builder, for what."""
        if self.gpu is not None and self.name == "tensorrt":
            capability = self.gpu.compute_capability
            return f"{self.title} on {self.gpu.name} (compute capability {capability})"
        targets = ", ".join(self.compute_capabilities)
        return f"{self.title}, ahead of time for {targets}; Triton can't load its engines"


def find_builder(compute_capabilities: Sequence[str] | None = None) -> Builder:
    """TensorRT where it and a GPU are there, else TensorRT-RTX; EngineUnavailable with a sentence when neither."""
    gpu = find_gpu()
    tensorrt = _import("tensorrt") if gpu is not None else None
    if gpu is not None and tensorrt is not None:
        targets = tuple(compute_capabilities or (gpu.compute_capability,))
        if targets != (gpu.compute_capability,):
            raise EngineUnavailable(
                f"TensorRT builds for the GPU it runs on: asked for {', '.join(targets)}, "
                f"this is a {gpu.name} with {gpu.compute_capability}"
            )
        return Builder(
            name="tensorrt", module=tensorrt, version=tensorrt.__version__, compute_capabilities=targets, gpu=gpu
        )
    rtx = _import("tensorrt_rtx")
    if rtx is None:
        lacking = "no GPU was found" if gpu is None else f"there is a {gpu.name}, but the package tensorrt is missing"
        raise EngineUnavailable(f"no engine builder: {lacking}, and the package tensorrt-rtx-cu13 isn't installed")
    targets = tuple(compute_capabilities or RTX_COMPUTE_CAPABILITIES)
    for target in targets:
        if _rtx_name(target) not in rtx.ComputeCapability.__members__:
            known = ", ".join(sorted(name for name in rtx.ComputeCapability.__members__ if name.startswith("SM")))
            raise EngineUnavailable(f"TensorRT-RTX {rtx.__version__} doesn't build for {target}, only for {known}")
    return Builder(name="tensorrt-rtx", module=rtx, version=rtx.__version__, compute_capabilities=targets, gpu=gpu)


def available() -> str:
    """One sentence: which engine builder works here, or why none does."""
    try:
        return find_builder().description
    except EngineUnavailable as exc:
        return str(exc)


def local_node() -> tuple[str, str, str] | None:
    """(builder, its version, compute capability) of the engines that this machine runs; None where that isn't known."""
    try:
        builder = find_builder()
    except EngineUnavailable:
        return None
    if builder.name != "tensorrt" or builder.gpu is None:
        return None
    return builder.name, builder.version, builder.gpu.compute_capability


def create_network(builder: Builder, trt_builder: Any) -> Any:
    """An empty, strongly typed network."""
    flags = builder.module.NetworkDefinitionCreationFlag
    strongly_typed = flags.__members__.get("STRONGLY_TYPED")  # always on, and one day gone, from TensorRT 11 on
    return trt_builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))


def target(builder: Builder, config: Any) -> None:
    """Set what the engine is built for; `tensorrt` always builds for the GPU at hand."""
    if builder.name == "tensorrt":
        return
    config.num_compute_capabilities = len(builder.compute_capabilities)
    for index, capability in enumerate(builder.compute_capabilities):
        config.set_compute_capability(builder.module.ComputeCapability.__members__[_rtx_name(capability)], index)


@functools.cache
def logger_of(module: ModuleType) -> Any:
    """The process's TensorRT logger: to `logging`, and into `.errors`, which a failed build doesn't return.

    One a module, because TensorRT keeps to the first logger it is given.
    """
    severity = module.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.DEBUG,
    }

    class EngineLogger(module.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity)
            if level == logging.ERROR:
                self.errors.append(message)
            if level is not None:
                _LOG.log(level, "%s", message)

    return EngineLogger()


def make_monitor(module: ModuleType, progress: Progress) -> Any:
    """A progress monitor that reports (phase, share done); what `progress` raises stops the build, see `.raised`."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.raised: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, num_steps: int) -> None:
            self._steps[phase] = num_steps
            self._report(phase, 0.0)

        def step_complete(self, phase: str, step: int) -> bool:
            return self._report(phase, (step + 1) / max(1, self._steps.get(phase, 1)))

        def phase_finish(self, phase: str) -> None:
            self._report(phase, 1.0)

        def _report(self, phase: str, share: float) -> bool:
            if self.raised is None:
                try:
                    progress(phase, min(1.0, share))
                except (
                    BaseException
                ) as exc:  # it can't pass through TensorRT's threads: kept, and raised after the build
                    self.raised = exc
            return self.raised is None

    return Monitor()


def _import(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # OSError: the package is there and a library of CUDA isn't
        return None


def _rtx_name(compute_capability: str) -> str:
    return f"SM{compute_capability.replace('.', '')}"
