"""What a model's outputs mean: classes, a number, a vector or just tensors; told by labels, task and shapes."""

from collections.abc import Sequence

from pydantic import ValidationError

from contract.schema import (
    ClassificationPostprocess,
    EmbeddingPostprocess,
    Postprocess,
    RegressionPostprocess,
    TensorPostprocess,
    TensorSpec,
)
from contract.tensor import Tensors
from training.importer.error import ImportRefused
from training.importer.probe import are_probabilities
from training.importer.wish import Wish

_FLOATS = ("FP32", "FP16", "FP64")


def postprocess(
    wish: Wish, noted: Sequence[str], specs: Sequence[TensorSpec], outputs: Tensors
) -> tuple[Postprocess, str]:
    """How the outputs are to be read, and one line that says why; raises ImportRefused when they can't be read so.

    `noted` are labels that the file itself holds; `outputs` is what the graph answered, `[N, ...]`.
    """
    task = wish.task or ""
    found = [spec for spec in specs if spec.datatype in _FLOATS and wish.output in (None, spec.name)]
    if wish.output is not None and not found:
        raise ImportRefused(
            f"expected --output to name one of the number outputs of {_shapes(specs)}, got {wish.output}"
        )
    if wish.labels or task.endswith("classification"):
        return _classes(wish.labels or tuple(noted), found, outputs)
    if noted and any(spec.shape == (len(noted),) for spec in found):
        return _classes(tuple(noted), found, outputs)
    if task.endswith("regression"):
        spec = _only([spec for spec in found if spec.shape in ((), (1,))], "one number a sample", specs)
        return RegressionPostprocess(tensor=spec.name), f"output {spec.name!r} is a number"
    if "embedding" in task:
        spec = _only([spec for spec in found if len(spec.shape) == 1], "a vector a sample", specs)
        return EmbeddingPostprocess(tensor=spec.name), f"output {spec.name!r} is an embedding"
    return TensorPostprocess(), "the outputs are given as they are"


def _classes(labels: tuple[str, ...], found: Sequence[TensorSpec], outputs: Tensors) -> tuple[Postprocess, str]:
    fitting = [s for s in found if len(s.shape) == 1 and s.shape[0] >= 2 and len(labels) in (0, s.shape[0])]
    what = f"{len(labels)} scores a sample, one a label" if labels else "a score for each label a sample"
    spec = _only(fitting, what, found)
    named = labels or tuple(map(str, range(spec.shape[0])))
    sums_to_one = are_probabilities(outputs[spec.name])
    try:
        classes = ClassificationPostprocess(
            tensor=spec.name, labels=named, activation="identity" if sums_to_one else "softmax"
        )
    except ValidationError as exc:
        raise ImportRefused(f"the labels can't be used: {exc.errors()[0]['msg']}") from exc
    said = "probabilities already" if sums_to_one else "made probabilities by softmax"
    unnamed = "" if labels else ", called by their numbers: --labels FILE names them"
    return classes, f"output {spec.name!r} scores {len(named)} labels{unnamed}; its rows are {said}"


def _only(fitting: Sequence[TensorSpec], what: str, specs: Sequence[TensorSpec]) -> TensorSpec:
    if len(fitting) == 1:
        return fitting[0]
    which = "none does" if not fitting else f"{len(fitting)} do: say which with --output"
    raise ImportRefused(f"expected one output with {what}, and of {_shapes(specs)} {which}")


def _shapes(specs: Sequence[TensorSpec]) -> dict[str, list[int]]:
    return {spec.name: list(spec.shape) for spec in specs}
