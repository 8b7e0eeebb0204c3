"""`python -m bench recipes`: every recipe trained, published and asked through the gateway, as one table.

What is published already isn't trained again: the figures are those that its contract holds. Latency is measured on the
real stack, one request at a time. A baseline is what anyone would try first, on the same test split.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from bench.error import BenchError
from bench.machine import Machine, this_machine
from bench.rounds import PORTS
from contract import Contract, Passport, Repository
from contract.document import Document
from contract.error import ContractError
from contract.golden import Golden
from contract.schema import Metric
from serving.builder import available
from tidegate.compiling import Compiler
from tidegate.stack import Stack
from training import recipe as catalogue
from training.error import RunUnfinished, TrainingError
from training.pipeline import run as train
from training.recipe import Recipe

NUM_REQUESTS, NUM_WARMUP = 200, 20
TIMEOUT_S = 30.0


class RecipeRow(Document):
    """One recipe. Sizes in bytes, the latency in milliseconds: the median of single requests over gRPC."""

    recipe: str
    task: str
    data: str
    num_parameters: int
    flops_per_sample: int
    training_time_s: float
    metric: Metric
    baselines: dict[str, float]
    graph_bytes: int
    engine_bytes: int | None
    latency_ms: float | None


class RecipeResult(Document):
    """One run; `failures` holds a sentence for each recipe that has no row."""

    machine: Machine
    lane: str
    rows: tuple[RecipeRow, ...]
    failures: dict[str, str]


def run(state: Path, console: Console, names: list[str], *, training: bool = True) -> RecipeResult:
    """A row for each of the named recipes; trains those that aren't published in `state` yet, unless told not to.

    Raises StackError.
    """
    repository = Repository(state / "model_repository")
    repository.root.mkdir(parents=True, exist_ok=True)
    known = _read_baselines(state)
    contracts: dict[str, Contract] = {}
    failures: dict[str, str] = {}
    for name in names:
        try:
            runs = state / "runs" if training else None
            contracts[name] = _published(catalogue.find(name), repository, runs, console)
            known.setdefault(name, {}).update(_baselines(catalogue.find(name), known.get(name, {}), console))
        except (TrainingError, ContractError) as exc:
            failures[name] = str(exc)
        (state / BASELINES).write_text(Baselines(values=known).model_dump_json(indent=1), encoding="utf-8")
    latencies = _latencies(repository, state, [contract.name for contract in contracts.values()])
    rows = [_row(name, c, repository, known[name], latencies.get(c.name)) for name, c in contracts.items()]
    return RecipeResult(machine=this_machine(), lane=available(), rows=tuple(rows), failures=failures)


BASELINES = "baselines.json"


class Baselines(Document):
    """What the baselines of each recipe came to, so that none is computed twice."""

    values: dict[str, dict[str, float]]


def _read_baselines(state: Path) -> dict[str, dict[str, float]]:
    with suppress(OSError, ValueError):
        return dict(Baselines.model_validate_json((state / BASELINES).read_bytes()).values)
    return {}


def _baselines(recipe: Recipe, known: Mapping[str, float], console: Console) -> dict[str, float]:
    missing = {name: compute for name, compute in recipe.baselines.items() if name not in known}
    if not missing:
        return {}
    dataset = recipe.load(None)
    found = {}
    for name, compute in missing.items():
        with console.status(f"{recipe.name}: {name}"):
            found[name] = float(compute(dataset))
    return found


def _published(recipe: Recipe, repository: Repository, runs: Path | None, console: Console) -> Contract:
    versions = repository.versions(recipe.model) if recipe.model in repository.models() else []
    if versions:
        contract = repository.contract(recipe.model, max(versions))
        if contract.provenance.config.get("recipe") == recipe.name:
            return contract
    if runs is None:
        raise RunUnfinished("it wasn't trained to its end for this table")
    return train(recipe, repository=repository, runs_dir=runs, compile=Compiler(console), console=console)


def _latencies(repository: Repository, state: Path, models: list[str]) -> dict[str, float]:
    """Milliseconds by model, asked one after the other through a stack of their own."""
    if not models:
        return {}
    stack = Stack(repository=repository.root, state=state / "stack", ports=PORTS)
    found = {}
    try:
        stack.start()
        with InferenceServerClient(f"127.0.0.1:{PORTS.grpc}") as client:
            for model in models:
                stack.wait_for(model)
                with suppress(InferenceServerException):
                    found[model] = _latency_ms(client, repository, model)
    finally:
        stack.stop()
    return found


def _latency_ms(client: InferenceServerClient, repository: Repository, model: str) -> float:
    contract = repository.contract(model, max(repository.versions(model)))
    golden = Golden.load(repository.version_dir(model, contract.version)).inputs
    inputs = []
    for spec in contract.inputs:
        one = np.ascontiguousarray(golden[spec.name][:1])
        tensor = InferInput(spec.name, list(one.shape), spec.datatype)
        tensor.set_data_from_numpy(one)
        inputs.append(tensor)
    taken = []
    for _ in range(NUM_WARMUP + NUM_REQUESTS):
        started = time.perf_counter()
        client.infer(model, inputs, client_timeout=TIMEOUT_S)
        taken.append(1000 * (time.perf_counter() - started))
    return median(taken[NUM_WARMUP:])


def _row(
    name: str, contract: Contract, repository: Repository, baselines: dict[str, float], latency_ms: float | None
) -> RecipeRow:
    graph = contract.artifact("model")
    if graph is None:
        raise BenchError(f"{contract.name} version {contract.version} has no graph")
    folder = repository.version_dir(contract.name, contract.version)
    made = contract.provenance
    return RecipeRow(
        recipe=name,
        task=contract.task,
        data=contract.evaluation.dataset,
        num_parameters=made.num_parameters,
        flops_per_sample=made.flops_per_sample,
        training_time_s=made.training_time_s,
        metric=contract.evaluation.metrics[0],
        baselines=baselines,
        graph_bytes=graph.size_bytes,
        engine_bytes=Passport.load(folder).engine_size_bytes if contract.artifact("passport") else None,
        latency_ms=latency_ms,
    )
