"""The champion: the version that is served, answering a challenger's test samples through its own published graph.

Its files are held against their digests, and its graph against its folder, before ONNX Runtime sees a byte of them.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from contract.digest import verify
from contract.error import ContractError
from contract.repository import Repository
from contract.schema import Contract, Postprocess, Preprocess, RegressionPostprocess, TensorSpec
from contract.tensor import Tensors
from contract.triton import MODEL_FILE
from training import recipe
from training.comparison import Answers, Comparison, compare
from training.data import Split
from training.error import NotComparable
from training.evaluation import Measures
from training.external import check_enclosed
from training.parity import Graph

_GRAPH_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class Promise(Protocol):
    """What a recipe and a contract both say of a model."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...  # noqa: D102
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...  # noqa: D102
    @property
    def preprocess(self) -> Preprocess: ...  # noqa: D102
    @property
    def postprocess(self) -> Postprocess: ...  # noqa: D102


def challenge(
    repository: Repository,
    champion: Contract,
    challenger: Promise,
    outputs: Tensors,
    test: Split,
    own: Measures | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Comparison:
    """Hold a challenger's outputs for the test samples against those of a published version's graph.

    `files` are what the samples were made with, such as a tokenizer. What can't be compared is said in the remarks,
    never raised.
    """
    try:
        theirs = answers(repository, champion, challenger, test, own, files)
    except NotComparable as exc:
        return Comparison(champion=champion.version, remarks=(str(exc),))
    ours = Answers(postprocess=challenger.postprocess, outputs=outputs)
    return compare(champion.version, theirs, ours, test.targets, meant=challenger.postprocess, own=own)


def compare_published(
    repository: Repository, model: str, first: int, second: int, data_dir: Path | None = None
) -> Comparison:
    """Hold a model's second version against its first, on the test split of the recipe that the second was made by.

    Raises ContractError for a version that isn't there or can't be trusted, RecipeNotFound, what reading the data
    raises, and NotComparable.
    """
    before, after = (repository.contract(model, version) for version in (first, second))
    name = after.provenance.config.get("recipe")
    if not isinstance(name, str):
        raise NotComparable(f"{model} version {second} was made by no recipe, so there are no samples to compare it on")
    made_by = recipe.find(name.removesuffix(recipe.QUICK))
    dataset = made_by.load(data_dir)
    test, own = dataset.test, made_by.metrics
    theirs, ours = (answers(repository, each, made_by, test, own, dataset.files) for each in (before, after))
    return compare(first, theirs, ours, test.targets, meant=made_by.postprocess, own=made_by.metrics)


def answers(
    repository: Repository,
    contract: Contract,
    meant: Promise,
    test: Split,
    own: Measures | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Answers:
    """What a published version's own graph answers to test samples that were made for the model `meant`.

    Raises NotComparable when the version takes or answers something else, when its files aren't those that were
    published, and when its graph fails or answers what isn't finite.
    """
    if obstacle := _obstacle(contract, meant, own) or _other_file(contract, files or {}):
        raise NotComparable(obstacle)
    folder = repository.version_dir(contract.name, contract.version)
    try:
        verify(contract, folder)
        check_enclosed(folder / MODEL_FILE["onnxruntime"], {artifact.path for artifact in contract.artifacts})
        outputs = Graph(folder / MODEL_FILE["onnxruntime"], contract.outputs).run_all(test.inputs, contract.batch.max)
    except (ContractError, *_GRAPH_ERRORS) as exc:
        raise NotComparable(
            f"the graph of version {contract.version} can't be used: {str(exc).strip().splitlines()[0]:.200}"
        ) from exc
    for name, output in outputs.items():
        if not np.isfinite(output).all():
            raise NotComparable(f"output {name!r} of version {contract.version} holds NaN or infinity for some samples")
    return Answers(postprocess=contract.postprocess, outputs=outputs)


def _obstacle(champion: Contract, challenger: Promise, own: Measures | None) -> str | None:
    """Why the two can't be given the same samples, or None."""
    version, old, new = f"version {champion.version}", champion.postprocess, challenger.postprocess
    if champion.inputs != challenger.inputs:
        return f"{version} takes other tensors ({', '.join(map(_shown, champion.inputs))})"
    if champion.preprocess != challenger.preprocess:
        return f"{version} preprocesses otherwise ({_changes(champion.preprocess, challenger.preprocess)})"
    if own is not None and champion.outputs != challenger.outputs:
        return f"{version} answers other tensors ({', '.join(map(_shown, champion.outputs))})"
    if old.kind != new.kind:
        return f"{version} answers by {old.kind}, not {new.kind}"
    if own is not None and old != new:
        return f"{version} answers otherwise ({_changes(old, new)})"
    if isinstance(old, RegressionPostprocess) and isinstance(new, RegressionPostprocess) and old.unit != new.unit:
        return f"{version} answers in {old.unit!r}, not {new.unit!r}"
    return None


def _other_file(champion: Contract, files: Mapping[str, bytes]) -> str | None:
    """The same text becomes other ids by another tokenizer."""
    for artifact in champion.artifacts:
        if (
            artifact.role == "tokenizer"
            and hashlib.sha256(files.get(artifact.path, b"")).hexdigest() != artifact.sha256
        ):
            return f"version {champion.version} has another {artifact.path}"
    return None


def _shown(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.datatype} {list(spec.shape)}"


def _changes(old: Preprocess | Postprocess, new: Preprocess | Postprocess) -> str:
    before, after = old.model_dump(), new.model_dump()
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return ", ".join(f"{name} {before.get(name)!r:.60}, now {after.get(name)!r:.60}" for name in names)
