"""Running an engine beside its graph: what no build can tell, and what clients need before an engine answers them.

The graph's answers come with the version, as golden samples, so a serving node needs no other runtime. They are asked
again at the edges of the batch range: an engine has other kernels there. Device memory is NVIDIA's cuda-bindings.
Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/python-api-docs.html
"""

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.agreement import changed_ratio, largest_error
from contract.error import ContractError
from contract.golden import Golden
from contract.passport import Passport
from contract.schema import AxisRange, Postprocess
from contract.tensor import Tensors
from serving.builder import Builder, logger_of
from serving.error import EngineRefused, EngineUnavailable


def measure(
    builder: Builder, folder: Path, golden: Golden, batch: AxisRange | None, postprocess: Postprocess
) -> Passport:
    """Run the engine in `folder` on the golden samples and write what came of it into its passport.

    Raises EngineUnavailable where engines of this builder don't run, EngineRefused when the engine can't be loaded,
    or answers NaN, infinity or other shapes.
    """
    if builder.name != "tensorrt":
        raise EngineUnavailable(f"an engine of {builder.title} runs nowhere here: nothing was measured")
    try:
        passport = Passport.load(folder)
        content = passport.read_engine(folder)
    except (ContractError, OSError) as exc:
        raise EngineRefused(f"the engine isn't loaded: {exc}") from exc
    errors: list[float] = []
    ratios: list[float | None] = []
    with Engine(builder.module, content) as engine:
        for size in sorted({1, batch.min, batch.opt, batch.max}) if batch is not None else (None,):
            expected, got = _answers(engine, golden, size)
            try:
                errors.append(largest_error(expected, got, postprocess))
            except ValueError as exc:
                raise EngineRefused(f"{passport.engine} at batch {size or 'none'}: {exc}") from exc
            ratios.append(changed_ratio(postprocess, expected, got))
    changed = max((ratio for ratio in ratios if ratio is not None), default=None)
    measured = passport.model_copy(update={"max_error": max(errors), "changed_ratio": changed})
    measured.save(folder)
    return measured


class Engine:
    """A deserialized engine on the GPU; a context manager. Its bytes were held against a passport before."""

    def __init__(self, module: ModuleType, content: bytes) -> None:
        self._module = module
        self._runtime = module.Runtime(logger_of(module))
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise EngineRefused(f"TensorRT {module.__version__} can't load the engine: {'; '.join(_errors(module))}")
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = module.TensorIOMode.INPUT
        self._outputs = [name for name in names if self._engine.get_tensor_mode(name) != inputs]
        self._stack = ExitStack()

    def __enter__(self) -> "Engine":
        self._stream = self._stack.enter_context(_stream())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Outputs `[N, ...]` by name of one batch; EngineRefused when the engine doesn't take it."""
        with ExitStack() as stack:
            for name, array in inputs.items():
                self._context.set_input_shape(name, array.shape)
                self._context.set_tensor_address(name, stack.enter_context(_copied(np.ascontiguousarray(array))))
            outputs = {name: self._empty(name) for name in self._outputs}
            addresses = {name: stack.enter_context(_allocated(array.nbytes)) for name, array in outputs.items()}
            for name, address in addresses.items():
                self._context.set_tensor_address(name, address)
            if not self._context.execute_async_v3(self._stream):
                raise EngineRefused(f"the engine doesn't run: {'; '.join(_errors(self._module))}")
            cuda = _cuda()
            _check(cuda.cudaStreamSynchronize(self._stream))
            for name, array in outputs.items():
                _check(cuda.cudaMemcpy(array.ctypes.data, addresses[name], array.nbytes, _kind("DeviceToHost")))
        return outputs

    def _empty(self, name: str) -> NDArray[Any]:
        shape = tuple(self._context.get_tensor_shape(name))
        return np.empty(shape, self._module.nptype(self._engine.get_tensor_dtype(name)))


def _answers(engine: Engine, golden: Golden, size: int | None) -> tuple[Tensors, Tensors]:
    """What was to come and what came, over all golden samples in batches of `size`; the last batch begins anew.

    Without a size each sample goes alone, without a batch axis.
    """
    num_samples = len(next(iter(golden.inputs.values())))
    rows, parts = [], []
    for start in range(0, num_samples, size or 1):
        chosen = (start + np.arange(size or 1)) % num_samples
        rows.append(chosen)
        part = engine.run({name: array[start if size is None else chosen] for name, array in golden.inputs.items()})
        parts.append(part if size is not None else {name: array[None] for name, array in part.items()})
    expected = {name: array[np.concatenate(rows)] for name, array in golden.outputs.items()}
    return expected, {name: np.concatenate([part[name] for part in parts]) for name in expected}


def _errors(module: ModuleType) -> list[str]:
    errors: list[str] = logger_of(module).errors
    return errors[-3:] or ["it gave no reason"]


def require_runtime() -> None:
    """Raise EngineUnavailable unless what running an engine needs is installed."""
    _cuda()


def _cuda() -> ModuleType:
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as exc:
        raise EngineUnavailable(
            "running an engine needs the package cuda-bindings: pip install 'tidegate[tensorrt]'"
        ) from exc


def _check(answer: tuple[Any, ...]) -> Any:
    """The value behind CUDA's error code; EngineRefused with the code's name."""
    error, *values = answer
    if int(error) != 0:
        raise EngineRefused(f"the GPU refuses to run the engine: {error.name}")
    return values[0] if values else None


def _kind(name: str) -> Any:
    return getattr(_cuda().cudaMemcpyKind, f"cudaMemcpy{name}")


@contextmanager
def _stream() -> Iterator[int]:
    stream = _check(_cuda().cudaStreamCreate())
    try:
        yield int(stream)
    finally:
        _cuda().cudaStreamDestroy(stream)


@contextmanager
def _allocated(size_bytes: int) -> Iterator[int]:
    """Device memory; at least a byte, for TensorRT takes no null address."""
    address = _check(_cuda().cudaMalloc(max(1, size_bytes)))
    try:
        yield int(address)
    finally:
        _cuda().cudaFree(address)


@contextmanager
def _copied(array: NDArray[Any]) -> Iterator[int]:
    with _allocated(array.nbytes) as address:
        _check(_cuda().cudaMemcpy(address, array.ctypes.data, array.nbytes, _kind("HostToDevice")))
        yield address
