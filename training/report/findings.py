"""What a report is made from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from contract.error import ContractError
from contract.repository import Repository
from contract.schema import Evaluation, Provenance
from contract.tensor import Tensors
from training import checkpoint
from training.checkpoint import Progress
from training.comparison import Comparison
from training.curve import STEPS_FILE, read
from training.data import Dataset, Split
from training.evaluation import Measures, evaluate
from training.forward import predict
from training.parity import Parity
from training.recipe import Recipe
from training.stopping import is_finished


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What is known about a run so far: its curves at first, then what it is worth, then what was published.

    `outputs` are the network's answers `[N, ...]` to the N samples of `test`, and `own` measures them where the
    recipe brings its own measures. `tokenizer` is the file that turns a text model's ids back into words; without it
    the ids are shown.
    """

    recipe: Recipe
    progress: Progress
    steps: Sequence[Mapping[str, float]] = ()
    test: Split | None = None
    outputs: Tensors | None = None
    evaluation: Evaluation | None = None
    own: Measures | None = None
    comparison: Comparison | None = None
    parity: Parity | None = None
    provenance: Provenance | None = None
    version: int | None = None
    tokenizer: Path | None = None

    def __post_init__(self) -> None:
        """Test samples, the answers to them and what they were worth are known together or not at all."""
        if len({part is None for part in (self.test, self.outputs, self.evaluation)}) != 1:
            raise ValueError("expected all of test, outputs and evaluation, or none of them")


def of_run(folder: Path, recipe: Recipe) -> Findings:
    """What the run in a folder shows of itself, finished or not; raises RunMismatch when its checkpoint is none."""
    file = folder / checkpoint.CHECKPOINT_FILE
    progress = checkpoint.read_progress(file) if file.is_file() else Progress()
    return Findings(recipe=recipe, progress=progress, steps=read(folder / STEPS_FILE), own=recipe.metrics)


def judged(findings: Findings, folder: Path, dataset: Dataset) -> Findings:
    """The same with what the test split shows of the network in the run's folder; unchanged before the run's end.

    Raises RunMismatch when the checkpoint is another network's, GateFailed for outputs that aren't finite.
    """
    recipe = findings.recipe
    if not is_finished(recipe.config, findings.progress, len(dataset.train)):
        return findings
    network = recipe.network()
    checkpoint.read(folder / checkpoint.CHECKPOINT_FILE, network, None)
    outputs = predict(network, dataset.test.inputs, recipe.inputs, recipe.outputs)
    evaluation = evaluate(dataset.name, "test", recipe.postprocess, outputs, dataset.test.targets, findings.own)
    return replace(findings, test=dataset.test, outputs=outputs, evaluation=evaluation)


def with_version(findings: Findings, repository: Repository) -> Findings:
    """The same with the version that the run was published as, where there is one that can be read."""
    model = findings.recipe.model
    for version in reversed(repository.versions(model)):
        try:
            contract = repository.contract(model, version)
            made = json.loads((repository.version_dir(model, version) / "report.json").read_bytes())
            shown = Parity(**{**made["parity"], "batch_sizes": tuple(made["parity"]["batch_sizes"])})
        except (ContractError, OSError, ValueError, KeyError, TypeError):
            continue
        # A run's time, to the millisecond, is its own: no other run of the recipe was as long.
        if contract.provenance.training_time_s == round(findings.progress.time_s, 3):
            return replace(findings, version=version, provenance=contract.provenance, parity=shown)
    return findings
