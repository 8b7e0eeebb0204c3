"""What was derived becomes a version: profile, evaluation where there are targets, golden samples, provenance."""

import importlib.metadata
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue, ValidationError

from contract.digest import artifact, sha256_of
from contract.embedding import Embedding, check_embedding, fit_embedding
from contract.golden import GOLDEN_FILE, Golden
from contract.observation import Values, embedding_features, input_values, output_values, profile_of
from contract.postprocess import interpret
from contract.profile import Profile
from contract.repository import Repository
from contract.schema import (
    Artifact,
    ClassificationPostprocess,
    Contract,
    EmbeddingPostprocess,
    Evaluation,
    Provenance,
)
from training import publication
from training.evaluation import evaluate
from training.importer import file
from training.importer.error import ImportRefused
from training.importer.model import Derived
from training.provenance import git_revision

NUM_GOLDEN = 16
MIN_EMBEDDED = 64  # samples: from fewer, what an embedding varies along can't be told
NOT_MEASURED = Evaluation(dataset="none", split="none", metrics=())
_LIBRARIES = ("numpy", "onnx", "onnxruntime")


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What a model came from: the name of its file or factory, and the digest of what was read."""

    source: str
    sha256: str
    facts: Mapping[str, JsonValue]
    flops_per_sample: int = 0


def origin_of(path: Path, derived: Derived) -> Origin:
    """The origin of a model read from an ONNX file."""
    model = derived.opened.model
    opsets: dict[str, JsonValue] = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
    facts: dict[str, JsonValue] = {
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "opset": opsets,
    }
    return Origin(source=path.name, sha256=sha256_of(path), facts=facts)


def publish(derived: Derived, origin: Origin, repository: Repository) -> Contract:
    """Publish what was derived as a new version.

    Raises ImportRefused, PublishFailed or LockTimeout; then nothing was published.
    """
    with publication.draft(repository, derived.wish.name) as draft:
        artifacts = _write_files(derived, draft.folder)
        contract = _contract(derived, origin, draft.version, artifacts)
        draft.publish(contract)
    return contract


def _contract(derived: Derived, origin: Origin, version: int, artifacts: tuple[Artifact, ...]) -> Contract:
    wish = derived.wish
    try:
        return Contract(
            name=wish.name,
            version=version,
            task=wish.task or derived.postprocess.kind,
            description=" ".join(filter(None, (wish.description, *_imported(origin, derived.state)))),
            inputs=derived.inputs,
            outputs=derived.outputs,
            batch=derived.batch,
            batched=derived.opened.batched,
            takes_zeros=derived.takes_zeros,
            preprocess=derived.preprocess,
            postprocess=derived.postprocess,
            slo=wish.slo,
            profile=profile(derived),
            evaluation=evaluation(derived),
            provenance=_provenance(derived, origin),
            artifacts=artifacts,
        )
    except ValidationError as exc:
        raise ImportRefused(f"the model can't have a contract: {exc.errors()[0]['msg']}") from exc


def profile(derived: Derived) -> Profile:
    """The reference profile of the samples; no features where there are none, so that nothing is made up."""
    inputs: list[Values] = []
    outputs: list[Values] = []
    embedding = watched_embedding(derived)
    for part in derived.answered:
        if part.real:
            inputs.append(input_values(derived.preprocess, part.inputs, part.group.observed))
            if embedding is None:
                outputs.append(output_values(derived.postprocess, interpret(derived.postprocess, part.outputs)))
    found = profile_of(derived.preprocess, derived.postprocess, _joined(inputs), _joined(outputs))
    if embedding is None:
        return found
    watched = embedding_features(embedding, _real_outputs(derived, embedding.tensor)[1::2])
    return Profile(features=(*found.features, *watched), embedding=embedding)


def watched_embedding(derived: Derived) -> Embedding | None:
    """Along what an answer that is an embedding is watched: found on every second sample, for the others fill the bins.

    None for other answers, and for an embedding of which nothing but its length can be watched.
    """
    if not isinstance(derived.postprocess, EmbeddingPostprocess):
        return None
    tensor = derived.postprocess.tensor
    vectors_MD = _real_outputs(derived, tensor)
    try:
        check_embedding(tensor, derived.outputs)
        return fit_embedding(tensor, vectors_MD[::2]) if len(vectors_MD) >= MIN_EMBEDDED else None
    except ValueError:
        return None


def evaluation(derived: Derived) -> Evaluation:
    """Measured on the samples where each has its target; else nobody measured anything, and that is what it says."""
    classes = derived.postprocess
    targets = [part.group.targets for part in derived.answered if part.group.targets is not None]
    if not isinstance(classes, ClassificationPostprocess) or len(targets) < len(derived.answered):
        return NOT_MEASURED
    target, num_labels = np.concatenate([np.atleast_1d(each) for each in targets]), len(classes.labels)
    scores = np.concatenate([part.outputs[classes.tensor] for part in derived.answered])
    known = target.dtype.kind in "iu" and bool(((target >= 0) & (target < num_labels)).all())
    if target.shape != (len(scores),) or not known:
        raise ImportRefused(f"expected a target from 0 to {num_labels - 1} for each of the {len(scores)} samples")
    data = ", ".join(path.name for path in derived.wish.samples)
    return evaluate(data, "samples", classes, {classes.tensor: scores}, target.astype(np.int64))


def _write_files(derived: Derived, folder: Path) -> tuple[Artifact, ...]:
    names = [path.name for path in derived.opened.files]
    for path in derived.opened.files:
        shutil.copyfile(path, folder / path.name)
    written = [artifact(folder, name, "model") for name in names]
    first = derived.answered[0]
    if first.real:
        num = min(NUM_GOLDEN, *(len(array) for array in first.outputs.values()))
        sides = ({n: _storable(a[:num]) for n, a in side.items()} for side in (first.inputs, first.outputs))
        Golden(*sides).save(folder)
        written.append(artifact(folder, GOLDEN_FILE, "golden"))
    return tuple(written)


def _storable(array: NDArray[Any]) -> NDArray[Any]:
    """Texts get a fixed width: `.npz` without pickles holds no objects."""
    return array.astype(np.str_) if array.dtype.kind == "O" else array


def _provenance(derived: Derived, origin: Origin) -> Provenance:
    return Provenance(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        git_revision=git_revision(Path(__file__).resolve().parent),
        libraries={"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in _LIBRARIES},
        seed=0,
        data_sha256=derived.samples.sha256,
        config={
            "imported_from": origin.source,
            "imported_sha256": origin.sha256,
            **origin.facts,
            "state": dict(derived.state),
            "found": list(derived.remarks),
        },
        num_parameters=file.num_parameters(derived.opened.model),
        flops_per_sample=origin.flops_per_sample,
        training_time_s=0,
    )


def _imported(origin: Origin, state: Mapping[str, str]) -> list[str]:
    said = [f"Imported from {origin.source} (sha256 {origin.sha256[:12]}...)."]
    if state:
        pairs = ", ".join(f"{output} as {fed_back}" for output, fed_back in state.items())
        said.append(f"Keeps state: send {pairs} with the next request.")
    return said


def _real_outputs(derived: Derived, tensor: str) -> NDArray[Any]:
    """An output `[M, ...]` of all samples that were brought; `[0]` where none were."""
    parts = [part.outputs[tensor] for part in derived.answered if part.real]
    return np.concatenate(parts) if parts else np.zeros(0)


def _joined(parts: Sequence[Values]) -> dict[str, NDArray[Any]]:
    """Each feature's values over all parts; without features of which no sample has a number."""
    joined = {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
    return {name: values for name, values in joined.items() if values.dtype.kind != "f" or not np.isnan(values).all()}
