"""From an ONNX file to an engine beside it, with the passport that says what it is.

One path for TensorRT and TensorRT-RTX (see serving.builder): parse, check against the contract's tensors, one
optimization profile, build, write. Hardware compatibility and version compatibility stay off: one engine for what it
was built for, and the passport tells everyone what that is.
"""

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from contract.digest import sha256_of
from contract.passport import PASSPORT_FILE, InputProfile, Passport
from contract.schema import AxisRange, TensorSpec
from serving.builder import Builder, Progress, create_network, find_builder, logger_of, make_monitor, target
from serving.error import EngineBuildFailed, EngineUnavailable

WORKSPACE_BYTES = 4 * 1024**3

_LOG = logging.getLogger(__name__)

Precision = Literal["FP32", "FP16", "INT8"]


def build(
    onnx: Path,
    inputs: Sequence[TensorSpec],
    batch: AxisRange,
    *,
    progress: Progress | None = None,
    compute_capabilities: Sequence[str] | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    timing_cache: Path | None = None,
) -> Passport:
    """Build the engine of `onnx` for the contract's batch and axis bounds; write engine and passport beside it.

    `model.plan` comes from TensorRT and `model.rtx` from TensorRT-RTX. `progress` gets (phase, share done), from
    TensorRT's threads; what it raises stops the build. `timing_cache` is read and written with TensorRT only.
    Raises EngineUnavailable without a builder, EngineBuildFailed with every error that parser and builder gave.
    """
    builder = find_builder(compute_capabilities)
    started = time.monotonic()
    logger = logger_of(builder.module)
    logger.errors.clear()
    trt_builder = builder.module.Builder(logger)
    network = create_network(builder, trt_builder)
    _parse(builder, network, logger, onnx)
    _check_inputs(network, inputs)
    config = trt_builder.create_builder_config()
    config.set_memory_pool_limit(builder.module.MemoryPoolType.WORKSPACE, workspace_bytes)
    config.clear_flag(builder.module.BuilderFlag.TF32)  # FP32 means FP32: parity is held to 1e-4
    target(builder, config)
    profile = profile_of(inputs, batch)
    config.add_optimization_profile(_optimization_profile(trt_builder, profile))
    monitor = make_monitor(builder.module, progress or _ignore)
    config.progress_monitor = monitor
    cache = _open_timing_cache(builder, config, timing_cache)
    engine = trt_builder.build_serialized_network(network, config)
    if monitor.raised is not None:
        raise monitor.raised
    if engine is None:
        raise EngineBuildFailed(f"{builder.title} refuses {onnx.name}: {_joined(logger.errors)}")
    if cache is not None and timing_cache is not None:
        _write(timing_cache, bytes(config.get_timing_cache().serialize()))
    passport = _write_engine(builder, onnx, bytes(engine), profile, _precision(builder, network), started)
    _LOG.info("%s: %d bytes in %.1f s by %s", passport.engine, passport.engine_size_bytes, passport.build_time_s,
              builder.description)  # fmt: skip
    return passport


def profile_of(inputs: Sequence[TensorSpec], batch: AxisRange) -> tuple[InputProfile, ...]:
    """Ranges of every input's axes, the batch axis first."""
    return tuple(InputProfile(name=spec.name, axes=(batch, *spec.bounds())) for spec in inputs)


def cache_key(
    *,
    onnx_sha256: str,
    builder: str,
    builder_version: str,
    compute_capabilities: Sequence[str],
    profile: Sequence[InputProfile],
    precision: str,
) -> str:
    """Hex SHA-256 that two builds share exactly when one's engine can stand for the other's."""
    facts = {
        "onnx": onnx_sha256,
        "builder": [builder, builder_version],
        "compute_capabilities": sorted(compute_capabilities),
        "profile": sorted((entry.model_dump() for entry in profile), key=lambda entry: str(entry["name"])),
        "precision": precision,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


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


def _parse(builder: Builder, network: Any, logger: Any, onnx: Path) -> None:
    if not onnx.is_file():
        raise EngineBuildFailed(f"expected an ONNX file, {onnx.name} doesn't exist")
    parser = builder.module.OnnxParser(network, logger)
    if parser.parse_from_file(str(onnx)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = [f"{_where(error)}{error.desc()}" for error in errors]
    raise EngineBuildFailed(f"{builder.title} can't read {onnx.name}: {_joined(lines or logger.errors)}")


def _where(error: Any) -> str:
    """The node an error is about: its name, or its number where it has none; nothing for the file as a whole."""
    if error.node() < 0:
        return ""
    return f"{error.node_name() or f'node {error.node()}'} ({error.node_operator()}): "


def _check_inputs(network: Any, inputs: Sequence[TensorSpec]) -> None:
    """The graph must have the contract's inputs, with a dynamic axis where the contract has a range."""
    graph = {tensor.name: tuple(tensor.shape) for tensor in map(network.get_input, range(network.num_inputs))}
    if graph.keys() != {spec.name for spec in inputs}:
        names = sorted(spec.name for spec in inputs)
        raise EngineBuildFailed(f"the contract has the inputs {names}, the ONNX model {sorted(graph)}")
    for spec in inputs:
        expected, came = (-1, *spec.shape), graph[spec.name]
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


def _open_timing_cache(builder: Builder, config: Any, path: Path | None) -> Any | None:
    """With TensorRT-RTX a timing cache would ask for a GPU, so there is none."""
    if path is None or builder.name != "tensorrt":
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _write_engine(
    builder: Builder, onnx: Path, engine: bytes, profile: tuple[InputProfile, ...], precision: Precision, started: float
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
    _write(onnx.with_name(builder.engine_file), engine)
    with tempfile.TemporaryDirectory(dir=onnx.parent, prefix=".passport-") as aside:
        passport.save(Path(aside)).replace(onnx.with_name(PASSPORT_FILE))
    return passport


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: aside on the same file system, flushed to disk, renamed."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        aside = Path(file.name)
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            aside.chmod(0o644)
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def _joined(errors: Sequence[str]) -> str:
    return "; ".join(errors) or "it gave no reason"


def _ignore(phase: str, share: float) -> None:
    """No one asked for progress."""
