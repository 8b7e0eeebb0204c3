"""A published version's graph at another precision, published as a version of its own.

A version of its own, for then everything holds for it that holds for any version: it is gated and profiled, a route
can give it a share of the traffic beside the version it was made from, and rolling back is one step.

    convert -> parity (gate) -> evaluate (gate) -> compile (gate) -> profile -> publish

What a gate refuses is not published.
"""

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from contract.agreement import Precision
from contract.digest import artifact
from contract.error import ContractNotFound
from contract.golden import GOLDEN_FILE, Golden
from contract.passport import PASSPORT_FILE, Passport
from contract.profile import Profile
from contract.repository import Repository
from contract.schema import Artifact, Contract, Evaluation
from training import gate, parity, publication
from training.error import ParityFailed, PublishFailed
from training.export import ONNX_FILE
from training.half import halve
from training.material import Material
from training.quantization import Target, quantize
from training.stage import Stages

VARIANT = "variant"  # the key in a contract's provenance
REPORT_FILE = "report.json"
_LIBRARIES = ("numpy", "onnx", "onnxruntime")
_OWN_ROLES = ("model", "golden", "engine", "passport", "report")  # made anew; everything else goes along as it is

# Makes the engine and its passport beside model.onnx in the version's folder, which holds golden samples too.
Compile = Callable[[Path, Contract], Passport]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lowering:
    """What becomes of the graph: its precision, and for which runtime."""

    precision: Precision
    target: Target

    def __post_init__(self) -> None:
        if self.target == "cpu" and self.precision != "INT8":
            raise ValueError(
                f"expected INT8 for the CPU, got {self.precision}: ONNX Runtime computes FP16 there through FP32"
                if self.precision == "FP16"
                else "expected INT8 for the CPU, got FP32: every version has its FP32 graph already"
            )


def parent_of(repository: Repository, model: str, version: int | None) -> Contract:
    """The version to lower: the one named, or the newest that isn't itself lowered, its files held against it.

    Raises ContractError, and PublishFailed for a version that was lowered already.
    """
    for number in [version] if version is not None else reversed(repository.servable(model)):
        contract = repository.contract(model, number, verified=True)
        if VARIANT not in contract.provenance.config:
            return contract
        if version is not None:
            raise PublishFailed(f"{model} version {version} was lowered already: name the version it was made from")
    raise ContractNotFound(f"model {model!r} has no published version")


def publish_variant(
    repository: Repository,
    parent: Contract,
    material: Material,
    lowering: Lowering,
    *,
    compile: Compile | None,  # noqa: A002 - the stage's own name
    console: Console,
) -> Contract:
    """Make, check and publish it; without `compile` there is no engine in it.

    Raises ExportFailed, ParityFailed, GateFailed, DataInvalid, PublishFailed, LockTimeout, ContractError, and whatever
    `compile` raises; then nothing was published.
    """
    stages = Stages(console)
    source = repository.version_dir(parent.name, parent.version)
    with publication.draft(repository, parent.name) as draft:
        folder = draft.folder
        with stages("convert") as say:
            say(_convert(parent, source, folder, material, lowering))
        judged = _judge(parent, source, folder, material, lowering, stages)
        _bring_along(parent, source, folder)
        passport = None if compile is None else _compile(parent, folder, compile, stages)
        contract = _contract(parent, draft.version, folder, judged, lowering, material, passport)
        with stages("publish") as say:
            draft.publish(contract)
            say(f"version {contract.version} in {repository.root / contract.name}")
    return contract


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judged:
    parity: parity.Parity
    evaluation: Evaluation
    profile: Profile


def _convert(parent: Contract, source: Path, folder: Path, material: Material, lowering: Lowering) -> str:
    """Write the graph; what came of it, in words."""
    graph, made = source / ONNX_FILE, folder / ONNX_FILE
    samples = material.calibration
    batches = parity.batches(samples, parent.batch.opt, batched=parent.batched)
    match lowering.precision:
        case "FP32":
            for entry in parent.artifacts:
                if entry.role == "model":
                    _copy(entry, source, folder)
            return "the graph as it is"
        case "FP16":
            kept = halve(graph, made, next(batches))
            said = f"; {len(kept)} nodes stay in FP32, for their tensors leave FP16's range" if kept else ""
            return f"FP16, {_kib(made)}{said}"
        case "INT8":
            quantize(graph, made, batches, target=lowering.target)
            num_samples = len(next(iter(samples.values())))
            return f"INT8 for {lowering.target}, {_kib(made)}, calibrated on {num_samples:,} samples of {material.name}"


def _judge(
    parent: Contract, source: Path, folder: Path, material: Material, lowering: Lowering, stages: Stages
) -> _Judged:
    graph = parity.Graph(source / ONNX_FILE, parent.outputs, batched=parent.batched)
    half = lowering.precision == "FP16"
    lowered = parity.Graph(folder / ONNX_FILE, parent.outputs, batched=parent.batched, as_written=half)
    with stages("parity") as say:
        shown, before, after = parity.check_lowered(
            graph, lowered, material.judged, parent.batch_axis, lowering.precision, parent.postprocess
        )
        say(f"within {shown.max_error:.1e} of the FP32 graph on {shown.num_samples:,} samples")
    with stages("evaluate") as say:
        old, new = material.measures(parent.postprocess, before, after)
        loss = parity.check_loss(old[0], new[0])
        evaluation = Evaluation(
            dataset=material.name, split=material.split, metrics=tuple(measure.metric for measure in new)
        )
        if material.recipe is not None:
            gate.check(material.recipe.gates, evaluation)
        say(f"{new[0].metric.name} {new[0].metric.value:.4f}, {loss:+.4f} lost")
    inputs = Golden.load(source).inputs
    Golden(inputs, lowered.run_all(inputs, parent.batch.max)).save(folder)
    held_out = None if material.dataset is None else material.dataset.validation.inputs
    answers = None if held_out is None else lowered.run_all(held_out, parent.batch.max)
    return _Judged(parity=shown, evaluation=evaluation, profile=material.profile(parent, answers))


def _bring_along(parent: Contract, source: Path, folder: Path) -> None:
    for entry in parent.artifacts:
        if entry.role not in _OWN_ROLES:
            _copy(entry, source, folder)


def _compile(parent: Contract, folder: Path, compiler: Compile, stages: Stages) -> Passport | None:
    """The engine's passport; None where no engine is to be shown, for nothing held it against the graph."""
    with stages("compile") as say:
        passport = compiler(folder, parent)
        said = f"{passport.engine} by {passport.builder} {passport.builder_version} for {passport.targets}"
        doubt = passport.doubt() if passport.triton_loadable else None
        if doubt is None:
            say(said)
            return passport
        if passport.max_error is not None:
            raise ParityFailed(f"{doubt}; nothing was published")
        for file in (passport.engine, PASSPORT_FILE):
            (folder / file).unlink()
        say(f"{said}; {doubt}: the graph is served")
    return None


def _contract(
    parent: Contract,
    version: int,
    folder: Path,
    judged: _Judged,
    lowering: Lowering,
    material: Material,
    passport: Passport | None,
) -> Contract:
    """The parent's promise, with what this graph was shown to do."""
    variant: dict[str, Any] = {"of": parent.version, **asdict(lowering), "judged_on": material.name}
    report = {VARIANT: variant, "parity": asdict(judged.parity)}
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    made = parent.provenance.model_copy(
        update={
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "libraries": parent.provenance.libraries | {name: importlib.metadata.version(name) for name in _LIBRARIES},
            "config": parent.provenance.config | {VARIANT: variant},
        }
    )
    own = {GOLDEN_FILE: "golden", REPORT_FILE: "report"}
    if passport is not None:
        own |= {passport.engine: "engine", PASSPORT_FILE: "passport"}
    kept = {entry.path: entry.role for entry in parent.artifacts if (folder / entry.path).is_file()}
    return parent.model_copy(
        update={
            "version": version,
            "evaluation": judged.evaluation,
            "profile": judged.profile,
            "provenance": made,
            "artifacts": tuple(artifact(folder, path, role) for path, role in (kept | own).items()),
        }
    )


def _copy(entry: Artifact, source: Path, folder: Path) -> None:
    (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / entry.path, folder / entry.path)


def _kib(path: Path) -> str:
    return f"{path.stat().st_size / 1024:,.0f} KiB"
