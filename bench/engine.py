"""`python -m bench engines`: what becomes of each recipe's graph at each precision, and how fast a CPU answers by it.

Two tables and a picture in `docs/engines.md`: every engine that the builder of this machine makes, and the latency of
the same model in torch and in ONNX Runtime, measured in turns in one run. What didn't run here is said, not left out.
"""

import importlib.metadata
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from rich.console import Console

from bench.error import BenchError
from bench.machine import Machine, this_machine
from bench.result import Spread
from contract import Contract, Repository
from contract.agreement import Precision
from contract.document import Document
from contract.error import ContractError
from contract.golden import Golden
from serving.builder import Builder, find_builder
from serving.compilation import build
from serving.error import EngineError
from serving.measurement import measure
from training import material, parity, recipe
from training.error import TrainingError
from training.forward import tensors_of
from training.half import halve
from training.material import Material
from training.quantization import quantize
from training.variant import parent_of

RTX_TARGETS = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
Form = Literal["FP32", "FP16", "INT8", "INT8 for the CPU"]
ROUNDS, ROUND_S = 7, 0.4
LIBRARIES = ("torch", "onnxruntime", "tensorrt-rtx-cu13", "tensorrt")


class EngineRow(Document):
    """One engine; `refusal` says why there is none. `max_error` and `metric` are the graph's, in ONNX Runtime.

    `engine_error` is the engine's own beside its graph, where it ran.
    """

    recipe: str
    form: Form
    max_error: float
    metric: str
    metric_value: float
    target: str
    build_time_s: float = 0.0
    size_bytes: int = 0
    engine_error: float | None = None
    refusal: str = ""


class LatencyRow(Document):
    """Milliseconds a call, the median of each round."""

    recipe: str
    runtime: str
    batch: int
    rounds_ms: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        """Over the rounds."""
        return Spread.of(self.rounds_ms)


class EngineResult(Document):
    """One run. `lane` is the builder in words."""

    machine: Machine
    libraries: dict[str, str]
    lane: str
    engines: tuple[EngineRow, ...]
    latencies: tuple[LatencyRow, ...]
    failures: dict[str, str]


def run(repository: Path, console: Console) -> EngineResult:
    """Measure every recipe that has a published version; the others are among the failures. Raises BenchError."""
    try:
        builder = find_builder()
    except EngineError as exc:
        raise BenchError(str(exc)) from exc
    engines: list[EngineRow] = []
    latencies: list[LatencyRow] = []
    failures: dict[str, str] = {}
    for name in recipe.names():
        model = recipe.find(name).model
        try:
            contract = parent_of(Repository(repository), model, None)
            found = material.of_recipe(contract, None)
        except (TrainingError, ContractError) as exc:
            failures[name] = str(exc)
            continue
        with tempfile.TemporaryDirectory() as scratch:
            source = Repository(repository).version_dir(model, contract.version)
            graphs = dict(_lowered(source / "model.onnx", Path(scratch), contract, found))
            for form, graph in graphs.items():
                console.print(f"{name}: {form}", highlight=False)
                engines += _engines(builder, name, form, graph, source, contract, found)
            latencies += _latencies(name, source / "model.onnx", graphs["INT8 for the CPU"], contract, found)
    return EngineResult(
        machine=this_machine(),
        libraries={library: version for library in LIBRARIES if (version := _version(library))},
        lane=builder.description,
        engines=tuple(engines),
        latencies=tuple(latencies),
        failures=failures,
    )


def _lowered(graph: Path, folder: Path, contract: Contract, found: Material) -> Iterator[tuple[Form, Path]]:
    """The graph in every form; each lies as `model.onnx` in a folder of its own."""

    def batches() -> Iterator[dict[str, NDArray[Any]]]:
        return parity.batches(found.calibration, contract.batch.opt, batched=contract.batched)

    makers: dict[Form, Callable[[Path], object]] = {
        "FP32": lambda path: path.write_bytes(graph.read_bytes()),
        "FP16": lambda path: halve(graph, path, next(batches())),
        "INT8": lambda path: quantize(graph, path, batches(), target="tensorrt"),
        "INT8 for the CPU": lambda path: quantize(graph, path, batches(), target="cpu"),
    }
    for form, make in makers.items():
        path = folder / form.replace(" ", "-") / "model.onnx"
        path.parent.mkdir()
        make(path)
        yield form, path


def _engines(
    builder: Builder, name: str, form: Form, graph: Path, source: Path, contract: Contract, found: Material
) -> Iterator[EngineRow]:
    precision: Precision = "INT8" if form == "INT8 for the CPU" else form
    reference = parity.Graph(source / "model.onnx", contract.outputs, batched=contract.batched)
    own = parity.Graph(graph, contract.outputs, batched=contract.batched, as_written=precision == "FP16")
    shown, before, after = parity.check_lowered(
        reference, own, found.judged, contract.batch_axis, precision, contract.postprocess
    )
    metric = found.measures(contract.postprocess, before, after)[1][0].metric
    facts = {"recipe": name, "form": form, "max_error": shown.max_error}
    facts |= {"metric": metric.name, "metric_value": metric.value}
    if form == "INT8 for the CPU":
        yield EngineRow.model_validate(facts | {"target": "CPU", "size_bytes": graph.stat().st_size})
        return
    inputs = Golden.load(source).inputs
    Golden(inputs, own.run_all(inputs, contract.batch.max)).save(graph.parent)
    for target in builder.compute_capabilities if builder.name == "tensorrt" else RTX_TARGETS:
        yield EngineRow.model_validate(
            facts | {"target": f"sm_{target.replace('.', '')}"} | _built(builder, graph, target, contract)
        )


def _built(builder: Builder, graph: Path, target: str, contract: Contract) -> dict[str, object]:
    try:
        passport = build(graph, contract.inputs, contract.batch_axis, compute_capabilities=[target])
        if passport.triton_loadable:
            golden = Golden.load(graph.parent)
            passport = measure(builder, graph.parent, golden, contract.batch_axis, contract.postprocess)
    except EngineError as exc:
        return {"refusal": str(exc)}
    return {
        "build_time_s": passport.build_time_s,
        "size_bytes": passport.engine_size_bytes,
        "engine_error": passport.max_error,
    }


def _latencies(name: str, graph: Path, quantized: Path, contract: Contract, found: Material) -> list[LatencyRow]:
    """In turns, so that whatever else the machine does meets all alike."""
    network = recipe.find(name).network().eval()  # untrained: the weights' values take no time
    sessions = {"ONNX Runtime, FP32": _session(graph), "ONNX Runtime, INT8": _session(quantized)}
    rows = []
    for size in sorted({1, contract.batch.opt, contract.batch.max}):
        batch = {key: np.ascontiguousarray(array[:size]) for key, array in found.judged.items()}
        calls: dict[str, Callable[[], object]] = {"torch, FP32": partial(network, *tensors_of(batch, contract.inputs))}
        calls |= {runtime: partial(session.run, None, batch) for runtime, session in sessions.items()}
        rounds: dict[str, list[float]] = {runtime: [] for runtime in calls}
        with torch.inference_mode():
            for call in calls.values():
                _median_ms(call)
            for _ in range(ROUNDS):
                for runtime, call in calls.items():
                    rounds[runtime].append(_median_ms(call))
        rows += [LatencyRow(recipe=name, runtime=key, batch=size, rounds_ms=tuple(ms)) for key, ms in rounds.items()]
    return rows


def _session(path: Path) -> ort.InferenceSession:
    """As the serving backend opens it: without threads that spin between requests."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _median_ms(call: Callable[[], object]) -> float:
    """Of the calls that fit into a round, at least one."""
    taken: list[float] = []
    end = time.perf_counter() + ROUND_S
    while not taken or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - started))
    return median(taken)


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
