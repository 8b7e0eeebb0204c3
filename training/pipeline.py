"""From a recipe to a published version.

    train_stage     data -> train
    publish_stage   data -> evaluate -> compare -> export -> parity -> compile -> profile -> publish
    run             both

Evaluate, compare, parity and compile each end at a gate: a version that doesn't pass isn't published.

Compiling is given in by the caller: engines are built by serving, on the node that will run them too, by the same code.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from contract.digest import artifact, sha256_of
from contract.golden import GOLDEN_FILE, Golden
from contract.passport import PASSPORT_FILE, Passport
from contract.repository import Repository
from contract.schema import Artifact, AxisRange, Contract, Evaluation, Postprocess, TensorSpec
from training import champion, checkpoint, distributed, gate, parity, publication, report, run_folder
from training.checkpoint import Progress
from training.comparison import Comparison
from training.data import Dataset
from training.error import ParityFailed, RunUnfinished
from training.evaluation import evaluate
from training.export import ONNX_FILE, export
from training.forward import predict
from training.gate import Requirement
from training.loop import train
from training.progress import TrainingBar
from training.provenance import provenance
from training.recipe import QUICK, Recipe
from training.reference import reference_profile, watched_embedding
from training.run_folder import Run
from training.served import Served, newest_served
from training.stage import Stages, summary
from training.stopping import is_finished, num_steps

# Takes the path of model.onnx in the version's folder, writes the engine and its passport beside it; where it can run
# the engine, it does so on the golden samples that lie there too.
Compile = Callable[[Path, Sequence[TensorSpec], AxisRange, Postprocess], Passport]

NUM_GOLDEN = 16
REPORT_FILE = "report.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Manner:
    """How a run is trained, which changes nothing of what comes out but rounding. `events` are for TensorBoard."""

    num_processes: int = 1
    events: bool = False


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
    comparison: Comparison | None
    findings: report.Findings


def run(
    recipe: Recipe,
    *,
    repository: Repository,
    runs_dir: Path,
    compile: Compile | None = None,  # noqa: A002 - the stage's own name
    data_dir: Path | None = None,
    console: Console,
    quick: bool = False,
    require: Requirement | None = None,
    manner: Manner | None = None,
) -> Contract:
    """Train, or go on training, and publish; raises TrainingError, and whatever `compile` raises."""
    recipe, stages = _form(recipe, quick), Stages(console)
    recipe = _pretrain(recipe, runs_dir, stages, data_dir, manner or Manner())
    dataset = _load(recipe, data_dir, stages)
    _train(recipe, dataset, runs_dir, stages, data_dir, manner or Manner())
    return _publish(recipe, dataset, repository, runs_dir, compile, require, stages)


def train_stage(
    recipe: Recipe,
    *,
    runs_dir: Path,
    data_dir: Path | None = None,
    console: Console,
    quick: bool = False,
    manner: Manner | None = None,
) -> Progress:
    """Train to the end, from where an earlier process was stopped; a finished run is left as it is.

    Raises DataNotFound, DataInvalid, RunMismatch, RunFailed, LockTimeout or Diverged.
    """
    recipe, stages = _form(recipe, quick), Stages(console)
    recipe = _pretrain(recipe, runs_dir, stages, data_dir, manner or Manner())
    dataset = _load(recipe, data_dir, stages)
    return _train(recipe, dataset, runs_dir, stages, data_dir, manner or Manner())


def publish_stage(
    recipe: Recipe,
    *,
    repository: Repository,
    runs_dir: Path,
    compile: Compile | None = None,  # noqa: A002 - the stage's own name
    data_dir: Path | None = None,
    console: Console,
    quick: bool = False,
    require: Requirement | None = None,
) -> Contract:
    """Publish a finished run as a new version: everything that comes after training.

    `require` is what it must be shown to be beside the version that is served.

    Raises RunUnfinished, GateFailed, ParityFailed, ExportFailed, PublishFailed, LockTimeout, what reading the data
    raises, and whatever `compile` raises; then nothing was published.
    """
    recipe, stages = _form(recipe, quick).begun(runs_dir), Stages(console)
    return _publish(recipe, _load(recipe, data_dir, stages), repository, runs_dir, compile, require, stages)


def _form(recipe: Recipe, quick: bool) -> Recipe:
    return recipe.quick() if quick else recipe


def _pretrain(recipe: Recipe, runs_dir: Path, stages: Stages, data_dir: Path | None, manner: Manner) -> Recipe:
    """Train what the recipe comes after, and what that comes after, before it; the recipe with those weights."""
    if recipe.after is not None:
        first = _pretrain(recipe.after, runs_dir, stages, data_dir, manner)
        _train(first, _load(first, data_dir, stages), runs_dir, stages, data_dir, manner)
    return recipe.begun(runs_dir)


def _load(recipe: Recipe, data_dir: Path | None, stages: Stages) -> Dataset:
    with stages("data") as say:
        dataset = recipe.load(data_dir).limited(recipe.config.num_train)
        splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
        say(f"{dataset.name}: {', '.join(f'{name} {len(split):,}' for name, split in splits.items())}")
    return dataset


def _train(
    recipe: Recipe, dataset: Dataset, runs_dir: Path, stages: Stages, data_dir: Path | None, manner: Manner
) -> Progress:
    if manner.num_processes > 1:
        with stages("train") as say:
            name, quick = recipe.name.removesuffix(QUICK), recipe.name.endswith(QUICK)
            distributed.launch(
                partial(distributed.train_recipe, name, runs_dir, data_dir, quick=quick, events=manner.events),
                manner.num_processes,
            )
            say(f"by {manner.num_processes} processes")
    config = recipe.config
    bar = TrainingBar(
        stages.console,
        num_epochs=config.epochs,
        batch_size=config.batch_size,
        score_name=recipe.objective.score_name,
    )
    with run_folder.opened(runs_dir, recipe, dataset) as opened, stages("train") as say:
        with bar:
            trained = train(recipe, dataset, opened, bar, events=manner.events)
        report.write(opened.folder, report.of_run(opened.folder, recipe))
        done = trained.progress.step - trained.resumed_at
        say(f"{done:,} steps in {opened.folder}" if done else f"{opened.folder} is trained to its end")
    return trained.progress


def _publish(
    recipe: Recipe,
    dataset: Dataset,
    repository: Repository,
    runs_dir: Path,
    compiler: Compile | None,
    require: Requirement | None,
    stages: Stages,
) -> Contract:
    with run_folder.opened(runs_dir, recipe, dataset, create=False) as opened:
        candidate = _compare(_evaluate(recipe, dataset, opened, stages), repository, require, stages)
    with publication.draft(repository, recipe.model) as draft:
        shown = _export(candidate, draft.folder, stages)
        passport = None if compiler is None else _compile(candidate, draft.folder, compiler, stages)
        contract = _contract(candidate, draft.version, draft.folder, shown, passport, stages)
        with stages("publish") as say:
            served = draft.publish(contract, follows=_follows(candidate) if require else None)
            say(f"version {contract.version} in {repository.root / contract.name}")
    rows = _rows(contract, candidate.comparison, shown, passport, served)
    stages.console.print(summary(f"{contract.name} version {contract.version}", rows))
    return contract


def _evaluate(recipe: Recipe, dataset: Dataset, opened: Run, stages: Stages) -> Candidate:
    network = recipe.network()
    if not opened.checkpoint.is_file():
        raise RunUnfinished(f"{opened.folder} holds no checkpoint yet: train it first")
    progress = checkpoint.read(opened.checkpoint, network, None)
    total, _ = num_steps(recipe.config, len(dataset.train))
    if not is_finished(recipe.config, progress, len(dataset.train)):
        raise RunUnfinished(f"{opened.folder} is at step {progress.step} of {total}: train it to the end first")
    with stages("evaluate") as say:
        outputs = predict(network, dataset.test.inputs, recipe.inputs, recipe.outputs)
        evaluation = evaluate(
            dataset.name, "test", recipe.postprocess, outputs, dataset.test.targets, own=recipe.metrics
        )
        read = report.of_run(opened.folder, recipe)
        findings = replace(read, test=dataset.test, outputs=outputs, evaluation=evaluation)
        report.write(opened.folder, findings)  # before the gate: who fails it wants to see why
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
        comparison=None,
        findings=findings,
    )


def _compare(candidate: Candidate, repository: Repository, require: Requirement | None, stages: Stages) -> Candidate:
    """The candidate with what it is beside the served version, where there is one."""
    recipe, test = candidate.recipe, candidate.dataset.test
    before = newest_served(repository, recipe.model)
    with stages("compare") as say:
        if before is None:
            say("this is the first version")
            return candidate
        comparison = champion.challenge(
            repository, before, recipe, candidate.test_outputs, test, own=recipe.metrics, files=candidate.dataset.files
        )
        if before.provenance.data_sha256 != candidate.dataset.sha256:
            comparison = comparison.with_remark(
                f"version {before.version} learned from other data, perhaps from some of these samples"
            )
        gate.check_comparison(comparison, require)
        say(str(comparison))
    return replace(candidate, comparison=comparison)


def _follows(candidate: Candidate) -> int:
    return candidate.comparison.champion if candidate.comparison else 0


def _export(candidate: Candidate, folder: Path, stages: Stages) -> parity.Parity:
    recipe, test = candidate.recipe, candidate.dataset.test
    with stages("export") as say:
        export(candidate.network, recipe.inputs, recipe.outputs, recipe.batch, folder / ONNX_FILE)
        golden = _golden(candidate)
        golden.save(folder)
        say(f"{ONNX_FILE}, {(folder / ONNX_FILE).stat().st_size / 1024:,.0f} KiB")
    with stages("parity") as say:
        graph = parity.Graph(folder / ONNX_FILE, recipe.outputs)
        specs = recipe.inputs, recipe.outputs, recipe.batch
        shown, outputs = parity.check(candidate.network, graph, test.inputs, *specs, recipe.postprocess)
        if recipe.golden is not None:
            of_golden, _ = parity.check(candidate.network, graph, golden.inputs, *specs, recipe.postprocess)
            shown = replace(shown, max_error=max(shown.max_error, of_golden.max_error))
        exported = evaluate(
            candidate.dataset.name, "test", recipe.postprocess, outputs, test.targets, own=recipe.metrics
        )
        parity.check_metrics(candidate.evaluation, exported, [g.metric for g in recipe.gates])
        sizes = ", ".join(map(str, shown.batch_sizes))
        say(f"within {shown.max_error:.1e} of torch on {shown.num_samples:,} samples, batches {sizes}; same metrics")
    return shown


def _compile(candidate: Candidate, folder: Path, compiler: Compile, stages: Stages) -> Passport | None:
    """The engine's passport, or None when there is no engine to be served or shown."""
    with stages("compile") as say:
        recipe = candidate.recipe
        compiler(folder / ONNX_FILE, recipe.inputs, recipe.batch, recipe.postprocess)
        passport = Passport.load(folder)  # holds the engine's digest against it
        if passport.onnx_sha256 != sha256_of(folder / ONNX_FILE):
            raise ParityFailed(f"{passport.engine} was built from another graph than {ONNX_FILE}")
        gate.check_engine(passport)
        capabilities = ", ".join(f"sm_{cc.replace('.', '')}" for cc in passport.compute_capabilities)
        said = f"{passport.engine} by {passport.builder} {passport.builder_version} for {capabilities}"
        if passport.triton_loadable and passport.max_error is None:
            # An engine that nobody ran beside the graph may be silently wrong: it isn't what clients are answered by.
            say(f"{said}; nothing measured it against the graph, so the graph is served")
            (folder / passport.engine).unlink()
            (folder / PASSPORT_FILE).unlink()
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
        embedding = watched_embedding(recipe, candidate.network, dataset.train)
        held_out = candidate.validation_outputs
        profile = reference_profile(
            recipe.preprocess, recipe.postprocess, dataset, held_out, recipe.unwatched, embedding
        )
        say(f"{len(profile.features)} features: {', '.join(feature.name for feature in profile.features)}")
    made = provenance(recipe, dataset, candidate.network, candidate.machine, candidate.progress.time_s)
    findings = replace(
        candidate.findings, comparison=candidate.comparison, parity=shown, provenance=made, version=version
    )
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
        provenance=made,
        artifacts=_artifacts(candidate, folder, shown, passport, findings),
    )


def _artifacts(
    candidate: Candidate, folder: Path, shown: parity.Parity, passport: Passport | None, findings: report.Findings
) -> tuple[Artifact, ...]:
    _write_report(candidate, folder, shown)
    pages = report.write(folder, findings)
    files = {ONNX_FILE: "model", GOLDEN_FILE: "golden", REPORT_FILE: "report"} | {p.name: "report" for p in pages}
    for name, content in candidate.dataset.files.items():
        (folder / name).write_bytes(content)
        files[name] = "tokenizer"
    if passport is not None:
        files |= {passport.engine: "engine", PASSPORT_FILE: "passport"}
    return tuple(artifact(folder, path, role) for path, role in files.items())


def _golden(candidate: Candidate) -> Golden:
    recipe, test = candidate.recipe, candidate.dataset.test
    if recipe.golden is None:
        outputs = {name: array[:NUM_GOLDEN] for name, array in candidate.test_outputs.items()}
        return Golden(dict(test.take(slice(NUM_GOLDEN)).inputs), outputs)
    inputs = dict(recipe.golden(candidate.network, test.inputs))
    return Golden(inputs, predict(candidate.network, inputs, recipe.inputs, recipe.outputs))


def _write_report(candidate: Candidate, folder: Path, shown: parity.Parity) -> None:
    document = {
        "epochs": [asdict(epoch) for epoch in candidate.progress.epochs],
        "parity": asdict(shown),
        "comparison": None if candidate.comparison is None else candidate.comparison.document(),
    }
    (folder / REPORT_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _rows(
    contract: Contract,
    comparison: Comparison | None,
    shown: parity.Parity,
    passport: Passport | None,
    served: Served,
) -> list[tuple[str, str]]:
    made = contract.provenance
    metrics = [m for m in contract.evaluation.metrics if "." not in m.name]
    return [
        *((m.name.replace("_", " "), f"{m.value:.4f} (95 % {m.low:.4f} to {m.high:.4f})") for m in metrics),
        ("it is", "the first version" if comparison is None else str(comparison)),
        ("network", f"{made.num_parameters:,} parameters, {made.flops_per_sample / 1e6:.1f} MFLOP a sample"),
        ("training", f"{made.training_time_s:.0f} s"),
        ("parity", f"{shown.max_error:.1e}"),
        ("engine", "none" if passport is None else f"{passport.engine} ({passport.builder})"),
        ("served", f"{served.runtime}, versions {', '.join(map(str, served.versions))}"),
    ]
