"""`python -m bench recipes`: every recipe trained, published and asked through the gateway, as one table.

What is published already isn't trained again, as long as it is what the recipe makes now: the figures are those that
its contract holds. Latency is measured on the real stack, one request at a time. A baseline is what anyone would try
first, on the same test split.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
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
from contract.schema import Metric, Provenance
from serving.builder import available
from tidegate.compiling import Compiler
from tidegate.stack import Stack
from training.config import TrainConfig
from training.error import RunUnfinished, TrainingError
from training.pipeline import run as run_pipeline
from training.recipe import Recipe

NUM_REQUESTS, NUM_WARMUP = 200, 20
TIMEOUT_S = 30.0
BASELINES = "baselines.json"

_ADDED = frozenset({"gates", "machine", "start"})  # what is beside a recipe's own description


class RecipeRow(Document):
    """One recipe. Sizes in bytes, the latency in milliseconds: the median of single requests over gRPC.

    `metrics` are the one that decides, which the baselines are of too, and those that a gate is on.
    """

    recipe: str
    model: str
    task: str
    data: str
    num_parameters: int
    flops_per_sample: int
    training_time_s: float
    metrics: tuple[Metric, ...]
    larger_is_better: bool
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


# Milliseconds by recipe, of what is published of each; takes a folder for what is written meanwhile.
Latencies = Callable[[Repository, Path, Mapping[str, Contract]], Mapping[str, float]]


def through_stack(repository: Repository, state: Path, contracts: Mapping[str, Contract]) -> Mapping[str, float]:
    """Asked one after the other, through a stack of their own; raises StackError."""
    if not contracts:
        return {}
    stack = Stack(repository=repository.root, state=state, ports=PORTS)
    found = {}
    try:
        stack.start()
        with InferenceServerClient(f"127.0.0.1:{PORTS.grpc}") as client:
            for name, contract in contracts.items():
                stack.wait_for(contract.name)
                with suppress(InferenceServerException):
                    found[name] = _latency_ms(client, repository, contract)
    finally:
        stack.stop()
    return found


def run(
    state: Path,
    console: Console,
    recipes: Sequence[Recipe],
    *,
    trained: Collection[str],
    latencies: Latencies = through_stack,
) -> RecipeResult:
    """A row for each recipe that is published in `state`; those that `trained` names are trained first where need be.

    Raises StackError.
    """
    repository = Repository(state / "model_repository")
    repository.root.mkdir(parents=True, exist_ok=True)
    known = _read_baselines(state)
    contracts: dict[str, Contract] = {}
    baselines: dict[str, dict[str, float]] = {}
    failures: dict[str, str] = {}
    for recipe in recipes:
        try:
            data_sha256 = recipe.load(None).sha256
            runs = state / "runs"
            contract = _published(recipe, data_sha256, repository, runs, console, train=recipe.name in trained)
            of_data = known.setdefault(recipe.name, {}).setdefault(data_sha256, {})
            of_data.update(_baselines(recipe, of_data, console))
            contracts[recipe.name] = contract
            baselines[recipe.name] = {name: of_data[name] for name in recipe.baselines}
        except (TrainingError, ContractError) as exc:
            failures[recipe.name] = str(exc)
        (state / BASELINES).write_text(Baselines(values=known).model_dump_json(indent=1), encoding="utf-8")
    found = latencies(repository, state / "stack", contracts)
    rows = [
        _row(recipe, contracts[recipe.name], repository, baselines[recipe.name], found.get(recipe.name))
        for recipe in recipes
        if recipe.name in contracts
    ]
    return RecipeResult(machine=this_machine(), lane=available(), rows=tuple(rows), failures=failures)


class Baselines(Document):
    """What the baselines came to, by recipe and the digest of its data, so that none is computed twice."""

    values: dict[str, dict[str, dict[str, float]]]


def _read_baselines(state: Path) -> dict[str, dict[str, dict[str, float]]]:
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


def _published(
    recipe: Recipe, data_sha256: str, repository: Repository, runs: Path, console: Console, *, train: bool
) -> Contract:
    """The newest version of what the recipe is now; a quick one, a lowered one or an earlier recipe's is none."""
    begun = recipe.begun(runs)
    wanted = begun if begun.start is None or begun.start.file.is_file() else recipe
    for version in reversed(repository.servable(recipe.model)):
        contract = repository.contract(recipe.model, version)
        if _is_of(wanted, data_sha256, contract.provenance):
            return contract
    if not train:
        raise RunUnfinished("it wasn't trained to its end for this table")
    return run_pipeline(recipe, repository=repository, runs_dir=runs, compile=Compiler(console), console=console)


def _is_of(recipe: Recipe, data_sha256: str, made: Provenance) -> bool:
    """Whether this recipe, with this network, on this data, is what was trained."""
    wanted = json.loads(json.dumps(recipe.describe()))
    config = {"network": wanted["network"]}  # from before it was described: it had as many parameters
    config |= {key: value for key, value in made.config.items() if key in wanted or key not in _ADDED}
    if isinstance(train_config := config.get("train"), dict):  # from before a setting was there: it had the default
        config["train"] = {**json.loads(json.dumps(asdict(TrainConfig()))), **train_config}
    num_parameters = sum(parameter.numel() for parameter in recipe.network().parameters())
    return (config, made.num_parameters, made.data_sha256) == (wanted, num_parameters, data_sha256)


def _latency_ms(client: InferenceServerClient, repository: Repository, contract: Contract) -> float:
    model, version = contract.name, str(contract.version)
    golden = Golden.load(repository.version_dir(model, version)).inputs
    inputs = []
    for spec in contract.inputs:
        one = np.ascontiguousarray(golden[spec.name][:1])
        tensor = InferInput(spec.name, list(one.shape), spec.datatype)
        tensor.set_data_from_numpy(one)
        inputs.append(tensor)
    taken = []
    for _ in range(NUM_WARMUP + NUM_REQUESTS):
        started = time.perf_counter()
        client.infer(model, inputs, model_version=version, client_timeout=TIMEOUT_S)
        taken.append(1000 * (time.perf_counter() - started))
    return median(taken[NUM_WARMUP:])


def _row(
    recipe: Recipe, contract: Contract, repository: Repository, baselines: dict[str, float], latency_ms: float | None
) -> RecipeRow:
    graph = contract.artifact("model")
    if graph is None:
        raise BenchError(f"{contract.name} version {contract.version} has no graph")
    folder = repository.version_dir(contract.name, contract.version)
    made = contract.provenance
    first, *others = contract.evaluation.metrics
    gates = {gate.metric: gate for gate in recipe.gates}
    return RecipeRow(
        recipe=recipe.name,
        model=contract.name,
        task=contract.task,
        data=contract.evaluation.dataset,
        num_parameters=made.num_parameters,
        flops_per_sample=made.flops_per_sample,
        training_time_s=made.training_time_s,
        metrics=(first, *(metric for metric in others if metric.name in gates)),
        larger_is_better=first.name not in gates or gates[first.name].at_most is None,
        baselines=baselines,
        graph_bytes=graph.size_bytes,
        engine_bytes=Passport.load(folder).engine_size_bytes if contract.artifact("passport") else None,
        latency_ms=latency_ms,
    )
