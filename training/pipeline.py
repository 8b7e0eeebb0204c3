"""From a recipe to a published version.

    train_stage     data -> train
    publish_stage   data -> evaluate -> gate -> export -> parity -> gate -> compile -> profile -> publish
    run             both

Compiling is given in by the caller: engines are built by serving, on the node that will run them too, by the same code.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from contract.digest import artifact, sha256_of
from contract.golden import GOLDEN_FILE, Golden
from contract.passport import PASSPORT_FILE, Passport
from contract.repository import Repository
from contract.schema import Artifact, AxisRange, Contract, Evaluation, TensorSpec
from training import checkpoint, gate, parity, publication, run_folder
from training.checkpoint import Progress
from training.data import Dataset
from training.error import ParityFailed, RunUnfinished
from training.evaluation import evaluate
from training.export import ONNX_FILE, export
from training.forward import predict
from training.loop import num_steps, train
from training.progress import TrainingBar
from training.provenance import provenance
from training.recipe import Recipe
from training.reference import reference_profile
from training.run_folder import Run
from training.served import Served
from training.stage import Stages, summary

# Takes the path of model.onnx in the version's folder, writes the engine and its passport beside it.
Compile = Callable[[Path, Sequence[TensorSpec], AxisRange], Passport]

NUM_GOLDEN = 16
REPORT_FILE = "report.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A trained network, and what it made of the data that it didn't learn from."""

    recipe: Recipe
    dataset: Dataset
    network: nn.Module
    progress: Progress
    machine: dict[str, Any]
    validation_outputs: dict[str, NDArray[Any]]
    test_outputs: dict[str, NDArray[Any]]
    evaluation: Evaluation


def run(
    recipe: Recipe,
    *,
    repository: Repository,
    runs_dir: Path,
    compile: Compile | None = None,  # noqa: A002 - the stage's own name
    data_dir: Path | None = None,
    console: Console,
    quick: bool = False,
) -> Contract:
    """Train, or go on training, and publish; raises TrainingError, and whatever `compile` raises."""
    recipe, stages = _form(recipe, quick), Stages(console)
    dataset = _load(recipe, data_dir, stages)
    _train(recipe, dataset, runs_dir, stages)
    return _publish(recipe, dataset, repository, runs_dir, compile, stages)


def train_stage(
    recipe: Recipe, *, runs_dir: Path, data_dir: Path | None = None, console: Console, quick: bool = False
) -> Progress:
    """Train to the end, from where an earlier process was stopped; a finished run is left as it is.

    Raises DataNotFound, DataInvalid, RunMismatch, LockTimeout or Diverged.
    """
    recipe, stages = _form(recipe, quick), Stages(console)
    return _train(recipe, _load(recipe, data_dir, stages), runs_dir, stages)


def publish_stage(
    recipe: Recipe,
    *,
    repository: Repository,
    runs_dir: Path,
    compile: Compile | None = None,  # noqa: A002 - the stage's own name
    data_dir: Path | None = None,
    console: Console,
    quick: bool = False,
) -> Contract:
    """Publish a finished run as a new version: everything that comes after training.

    Raises RunUnfinished, GateFailed, ParityFailed, ExportFailed, PublishFailed, LockTimeout, what reading the data
    raises, and whatever `compile` raises; then nothing was published.
    """
    recipe, stages = _form(recipe, quick), Stages(console)
    return _publish(recipe, _load(recipe, data_dir, stages), repository, runs_dir, compile, stages)


def _form(recipe: Recipe, quick: bool) -> Recipe:
    return recipe.quick() if quick else recipe


def _load(recipe: Recipe, data_dir: Path | None, stages: Stages) -> Dataset:
    with stages("data") as say:
        dataset = recipe.load(data_dir).limited(recipe.config.num_train)
        splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
        say(f"{dataset.name}: {', '.join(f'{name} {len(split):,}' for name, split in splits.items())}")
    return dataset


def _train(recipe: Recipe, dataset: Dataset, runs_dir: Path, stages: Stages) -> Progress:
    config = recipe.config
    bar = TrainingBar(
        stages.console,
        num_epochs=config.epochs,
        batch_size=config.batch_size,
        score_name=recipe.objective.score_name,
    )
    with run_folder.opened(runs_dir, recipe, dataset) as opened, stages("train") as say:
        with bar:
            trained = train(recipe, dataset, opened, bar)
        done = trained.progress.step - trained.resumed_at
        say(f"{done:,} steps in {opened.folder}" if done else f"{opened.folder} is trained to its end already")
    return trained.progress


def _publish(
    recipe: Recipe,
    dataset: Dataset,
    repository: Repository,
    runs_dir: Path,
    compiler: Compile | None,
    stages: Stages,
) -> Contract:
    with run_folder.opened(runs_dir, recipe, dataset, create=False) as opened:
        candidate = _evaluate(recipe, dataset, opened, stages)
    with publication.draft(repository, recipe.model) as draft:
        shown = _export(candidate, draft.folder, stages)
        passport = None if compiler is None else _compile(candidate, draft.folder, compiler, stages)
        contract = _contract(candidate, draft.version, draft.folder, shown, passport, stages)
        with stages("publish") as say:
            served = draft.publish(contract)
            say(f"version {contract.version} in {repository.root / contract.name}")
    rows = _rows(contract, shown, passport, served)
    stages.console.print(summary(f"{contract.name} version {contract.version}", rows))
    return contract


def _evaluate(recipe: Recipe, dataset: Dataset, opened: Run, stages: Stages) -> Candidate:
    network = recipe.network()
    if not opened.checkpoint.is_file():
        raise RunUnfinished(f"{opened.folder} holds no checkpoint yet: train it first")
    progress = checkpoint.read(opened.checkpoint, network, None)
    total, _ = num_steps(recipe.config, len(dataset.train))
    if progress.step < total:
        raise RunUnfinished(f"{opened.folder} is at step {progress.step} of {total}: train it to the end first")
    with stages("evaluate") as say:
        outputs = predict(network, dataset.test.inputs, recipe.inputs, recipe.outputs)
        evaluation = evaluate(dataset.name, "test", recipe.postprocess, outputs, dataset.test.targets)
        first = evaluation.metrics[0]
        say(f"{first.name} {first.value:.4f} (95 % interval {first.low:.4f} to {first.high:.4f})")
        gate.check(recipe.gates, evaluation)
        say(f"gates passed: {', '.join(g.metric for g in recipe.gates)}")
        held_out = predict(network, dataset.validation.inputs, recipe.inputs, recipe.outputs)
    return Candidate(
        recipe=recipe,
        dataset=dataset,
        network=network,
        progress=progress,
        machine={"num_threads": opened.num_threads, "device": opened.device},
        validation_outputs=held_out,
        test_outputs=outputs,
        evaluation=evaluation,
    )


def _export(candidate: Candidate, folder: Path, stages: Stages) -> parity.Parity:
    recipe, test = candidate.recipe, candidate.dataset.test
    with stages("export") as say:
        export(candidate.network, recipe.inputs, recipe.outputs, recipe.batch, folder / ONNX_FILE)
        say(f"{ONNX_FILE}, {(folder / ONNX_FILE).stat().st_size / 1024:,.0f} KiB")
    with stages("parity") as say:
        graph = parity.Graph(folder / ONNX_FILE, recipe.outputs)
        specs = recipe.inputs, recipe.outputs, recipe.batch
        shown, outputs = parity.check(candidate.network, graph, test.inputs, *specs)
        exported = evaluate(candidate.dataset.name, "test", recipe.postprocess, outputs, test.targets)
        parity.check_metrics(candidate.evaluation, exported, [g.metric for g in recipe.gates])
        sizes = ", ".join(map(str, shown.batch_sizes))
        say(f"within {shown.max_error:.1e} of torch on {shown.num_samples:,} samples, batches {sizes}; same metrics")
    return shown


def _compile(candidate: Candidate, folder: Path, compiler: Compile, stages: Stages) -> Passport | None:
    """The engine's passport, or None when there is no engine to be served or shown."""
    with stages("compile") as say:
        compiler(folder / ONNX_FILE, candidate.recipe.inputs, candidate.recipe.batch)
        passport = Passport.load(folder)  # holds the engine's digest against it
        if passport.onnx_sha256 != sha256_of(folder / ONNX_FILE):
            raise ParityFailed(f"{passport.engine} was built from another graph than {ONNX_FILE}")
        gate.check_engine(passport)
        capabilities = ", ".join(f"sm_{cc.replace('.', '')}" for cc in passport.compute_capabilities)
        said = f"{passport.engine} by {passport.builder} {passport.builder_version} for {capabilities}"
        if passport.triton_loadable and passport.max_error is None:
            # An engine that nobody ran beside the graph may be silently wrong: it isn't what clients are answered by.
            say(f"{said}; nothing measured it against the graph, so the graph is served")
            return None
        say(said)
    return passport


def _contract(
    candidate: Candidate,
    version: int,
    folder: Path,
    shown: parity.Parity,
    passport: Passport | None,
    stages: Stages,
) -> Contract:
    recipe, dataset = candidate.recipe, candidate.dataset
    with stages("profile") as say:
        profile = reference_profile(recipe.preprocess, recipe.postprocess, dataset, candidate.validation_outputs)
        say(f"{len(profile.features)} features: {', '.join(feature.name for feature in profile.features)}")
    return Contract(
        name=recipe.model,
        version=version,
        task=recipe.task,
        description=recipe.description,
        inputs=recipe.inputs,
        outputs=recipe.outputs,
        batch=recipe.batch,
        preprocess=recipe.preprocess,
        postprocess=recipe.postprocess,
        slo=recipe.slo,
        profile=profile,
        evaluation=candidate.evaluation,
        provenance=provenance(recipe, dataset, candidate.network, candidate.machine, candidate.progress.time_s),
        artifacts=_artifacts(candidate, folder, shown, passport),
    )


def _artifacts(
    candidate: Candidate, folder: Path, shown: parity.Parity, passport: Passport | None
) -> tuple[Artifact, ...]:
    golden = candidate.dataset.test.take(slice(NUM_GOLDEN))
    recipe = candidate.recipe
    outputs = predict(candidate.network, golden.inputs, recipe.inputs, recipe.outputs)
    Golden(dict(golden.inputs), outputs).save(folder)
    _write_report(candidate, folder, shown)
    files = {ONNX_FILE: "model", GOLDEN_FILE: "golden", REPORT_FILE: "report"}
    if passport is not None:
        files |= {passport.engine: "engine", PASSPORT_FILE: "passport"}
    return tuple(artifact(folder, path, role) for path, role in files.items())


def _write_report(candidate: Candidate, folder: Path, shown: parity.Parity) -> None:
    report = {"epochs": [asdict(epoch) for epoch in candidate.progress.epochs], "parity": asdict(shown)}
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _rows(contract: Contract, shown: parity.Parity, passport: Passport | None, served: Served) -> list[tuple[str, str]]:
    made = contract.provenance
    metrics = [m for m in contract.evaluation.metrics if "." not in m.name]
    return [
        *((m.name.replace("_", " "), f"{m.value:.4f} (95 % {m.low:.4f} to {m.high:.4f})") for m in metrics),
        ("network", f"{made.num_parameters:,} parameters, {made.flops_per_sample / 1e6:.1f} MFLOP a sample"),
        ("training", f"{made.training_time_s:.0f} s"),
        ("parity", f"{shown.max_error:.1e}"),
        ("engine", "none" if passport is None else f"{passport.engine} ({passport.builder})"),
        ("served", f"{served.runtime}, versions {', '.join(map(str, served.versions))}"),
    ]
