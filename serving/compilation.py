"""From an ONNX file to an engine beside it, with the passport that says what it is.

One path for TensorRT and TensorRT-RTX (see serving.builder): parse, check against the contract's tensors, one
optimization profile, build, write. Hardware compatibility and version compatibility stay off: one engine for what it
was built for, and the passport tells everyone what that is.
"""

import errno
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contract.agreement import Precision
from contract.digest import sha256_of
from contract.origin import origin_of
from contract.passport import InputProfile, Passport
from contract.schema import AxisRange, TensorSpec
from serving.builder import Builder, Progress, create_network, find_builder, logger_of, make_monitor, target
from serving.error import EngineBuildFailed

WORKSPACE_BYTES = 4 * 1024**3

_LOG = logging.getLogger(__name__)


def build(
    onnx: Path,
    inputs: Sequence[TensorSpec],
    batch: AxisRange | None,
    *,
    progress: Progress | None = None,
    compute_capabilities: Sequence[str] | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    timing_cache: Path | None = None,
    folder: Path | None = None,
) -> Passport:
    """Build the engine of `onnx` for the contract's batch and axis bounds; write it and its passport into `folder`.

    `batch` is None for a graph without a batch axis; without a folder they lie beside the graph. `model.plan` comes
    from TensorRT, `model.rtx` from TensorRT-RTX. `progress` gets (phase, share done), from TensorRT's threads; what it
    raises stops the build. `timing_cache` is read and written with TensorRT only. Raises EngineUnavailable without a
    builder, EngineBuildFailed with every error that parser and builder gave, or when the disk refuses; then nothing
    was written.
    """
    builder = find_builder(compute_capabilities)
    started = time.monotonic()
    logger = logger_of(builder.module)
    logger.errors.clear()
    trt_builder = builder.module.Builder(logger)
    network = create_network(builder, trt_builder)
    _parse(builder, network, logger, onnx)
    _check_inputs(network, inputs, batched=batch is not None)
    config = _config(builder, trt_builder, workspace_bytes)
    profile = profile_of(inputs, batch)
    config.add_optimization_profile(_optimization_profile(trt_builder, profile))
    monitor = make_monitor(builder.module, progress or _ignore)
    config.progress_monitor = monitor
    cache = None if timing_cache is None else _open_timing_cache(builder, config, timing_cache)
    engine = trt_builder.build_serialized_network(network, config)
    if monitor.raised is not None:
        raise monitor.raised
    if engine is None:
        raise EngineBuildFailed(f"{builder.title} refuses {onnx.name}: {_joined(logger.errors)}")
    folder = folder or onnx.parent
    with _explained(folder):
        if cache is not None and timing_cache is not None:
            _keep_timing_cache(timing_cache, bytes(config.get_timing_cache().serialize()))
        passport = _write_engine(builder, onnx, folder, bytes(engine), profile, _precision(builder, network), started)
    _LOG.info("%s: %d bytes in %.1f s by %s", passport.engine, passport.engine_size_bytes, passport.build_time_s,
              builder.description)  # fmt: skip
    return passport


def profile_of(inputs: Sequence[TensorSpec], batch: AxisRange | None) -> tuple[InputProfile, ...]:
    """Ranges of every input's axes, the batch axis first where there is one."""
    front = () if batch is None else (batch,)
    return tuple(InputProfile(name=spec.name, axes=(*front, *spec.bounds())) for spec in inputs)


def _config(builder: Builder, trt_builder: Any, workspace_bytes: int) -> Any:
    config = trt_builder.create_builder_config()
    config.set_memory_pool_limit(builder.module.MemoryPoolType.WORKSPACE, workspace_bytes)
    tf32 = builder.module.BuilderFlag.__members__.get("TF32")
    if tf32 is not None:
        config.clear_flag(tf32)  # FP32 means FP32: parity is held to 1e-4
    target(builder, config)
    return config


def _parse(builder: Builder, network: Any, logger: Any, onnx: Path) -> None:
    if not onnx.is_file():
        raise EngineBuildFailed(f"expected an ONNX file, {onnx.name} doesn't exist")
    parser = builder.module.OnnxParser(network, logger)
    if parser.parse_from_file(str(onnx)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    origins = _origins(onnx) if any(error.node() >= 0 for error in errors) else {}
    lines = [f"{_where(error, origins)}{error.desc()}" for error in errors]
    raise EngineBuildFailed(f"{builder.title} can't read {onnx.name}: {_joined(lines or logger.errors)}")


def _where(error: Any, origins: dict[int, str]) -> str:
    """The node an error is about, by name or number, and where it comes from; nothing for the file as a whole."""
    if error.node() < 0:
        return ""
    from_ = f", from {origins[error.node()]}" if error.node() in origins else ""
    return f"{error.node_name() or f'node {error.node()}'} ({error.node_operator()}{from_}): "


def _origins(onnx: Path) -> dict[int, str]:
    """Origin by node number, where the graph records it and this machine has the package onnx."""
    try:
        from onnx import load
    except ImportError:
        return {}
    nodes = load(onnx, load_external_data=False).graph.node
    return {index: origin for index, node in enumerate(nodes) if (origin := origin_of(node)) is not None}


def _check_inputs(network: Any, inputs: Sequence[TensorSpec], *, batched: bool) -> None:
    """The graph must have the contract's inputs, with a dynamic axis where the contract has a range."""
    graph = {tensor.name: tuple(tensor.shape) for tensor in map(network.get_input, range(network.num_inputs))}
    if graph.keys() != {spec.name for spec in inputs}:
        names = sorted(spec.name for spec in inputs)
        raise EngineBuildFailed(f"the contract has the inputs {names}, the ONNX model {sorted(graph)}")
    for spec in inputs:
        expected, came = (-1, *spec.shape) if batched else spec.shape, graph[spec.name]
        if len(came) != len(expected) or any(a not in (-1, b) for a, b in zip(came, expected, strict=True)):
            raise EngineBuildFailed(
                f"input {spec.name!r}: the contract says {list(expected)}, the ONNX model {list(came)}"
            )


def _optimization_profile(trt_builder: Any, profile: Sequence[InputProfile]) -> Any:
    made = trt_builder.create_optimization_profile()
    for entry in profile:
        bounds = [tuple(getattr(axis, end) for axis in entry.axes) for end in ("min", "opt", "max")]
        made.set_shape(entry.name, *bounds)
    return made


def _precision(builder: Builder, network: Any) -> Precision:
    """What the graph computes in: INT8 where anything is quantized, FP16 where any tensor is half, else FP32."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    quantized = {builder.module.LayerType.QUANTIZE, builder.module.LayerType.DEQUANTIZE}
    if any(layer.type in quantized for layer in layers):
        return "INT8"
    dtypes = {layer.get_output(index).dtype for layer in layers for index in range(layer.num_outputs)}
    return "FP16" if builder.module.DataType.HALF in dtypes else "FP32"


def _open_timing_cache(builder: Builder, config: Any, path: Path) -> Any | None:
    """The cache of earlier builds, or an empty one where it is another GPU's or damaged.

    With TensorRT-RTX a timing cache would ask for a GPU, so there is none.
    """
    if builder.name != "tensorrt":
        return None
    for content in (path.read_bytes() if path.is_file() else b"", b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None


def _write_engine(
    builder: Builder,
    onnx: Path,
    folder: Path,
    engine: bytes,
    profile: tuple[InputProfile, ...],
    precision: Precision,
    started: float,
) -> Passport:
    """Engine first, then passport: a reader that comes between finds a digest that doesn't match, and loads nothing."""
    passport = Passport(
        engine=builder.engine_file,
        engine_sha256=hashlib.sha256(engine).hexdigest(),
        engine_size_bytes=len(engine),
        onnx_sha256=sha256_of(onnx),
        builder=builder.name,
        builder_version=builder.version,
        cuda_version=builder.gpu.cuda_version if builder.gpu else None,
        driver_version=builder.gpu.driver_version if builder.gpu else None,
        compute_capabilities=builder.compute_capabilities,
        precision=precision,
        profile=profile,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        build_time_s=round(time.monotonic() - started, 3),
    )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".engine-") as aside:
        written = _write(Path(aside, builder.engine_file), engine), passport.save(Path(aside))
        for path in written:  # both are whole before either takes its place: a full disk leaves what was there
            path.replace(folder / path.name)
    return passport


def _keep_timing_cache(path: Path, content: bytes) -> None:
    """Replaced whole: builders may share it, and the last one wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".timing-") as aside:
        _write(Path(aside, path.name), content).replace(path)


def _write(path: Path, data: bytes) -> Path:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return path


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what the operating system says about the disk into EngineBuildFailed, which says what to do."""
    try:
        yield
    except OSError as exc:
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "the disk is full: free some space and try again" if full else exc.strerror or str(exc)
        raise EngineBuildFailed(f"the engine can't be written into {folder}: {reason}") from exc


def _joined(errors: Sequence[str]) -> str:
    return "; ".join(errors) or "it gave no reason"


def _ignore(phase: str, share: float) -> None:
    """No one asked for progress."""
