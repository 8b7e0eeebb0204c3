"""Real samples for a graph of lower precision: some to calibrate it on, and others to judge it by.

From the recipe that the version was trained by, where there is one; otherwise from a file of samples.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.profile import Profile
from contract.schema import ClassificationPostprocess, Contract, Postprocess
from contract.tensor import Tensors
from training.data import Dataset
from training.error import DataInvalid, RecipeNotFound
from training.evaluation import Measure, counted, is_measured, measure
from training.importer.sample import TARGET, read_arrays
from training.recipe import Recipe, find
from training.reference import reference_profile

NUM_CALIBRATION = 512  # ranges hardly widen beyond; chosen by the seed, so the same graph comes out again
_SEED = 1708


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """`calibration` and `judged` are inputs `[M, ...]`; without `targets` `[M, ...]` labels are held to the FP32's."""

    name: str
    split: str
    calibration: Tensors
    judged: Tensors
    targets: NDArray[Any] | None
    recipe: Recipe | None = None
    dataset: Dataset | None = None

    def measures(
        self, postprocess: Postprocess, before: Tensors, after: Tensors
    ) -> tuple[list[Measure], list[Measure]]:
        """Metrics of the FP32 graph's outputs and of the lowered one's; the first metric decides.

        Raises DataInvalid where nothing can be measured without targets.
        """
        own = self.recipe.metrics if self.recipe else None
        if self.targets is not None and (own or is_measured(postprocess)):
            old, new = (list(measure(postprocess, outputs, self.targets, own)) for outputs in (before, after))
            return old, new
        if not isinstance(postprocess, ClassificationPostprocess):
            raise DataInvalid(f"expected targets beside the samples in {self.name}, named {TARGET!r}, found none")
        labels = [outputs[postprocess.tensor].argmax(axis=-1) for outputs in (before, after)]
        same, all_ = labels[0] == labels[1], np.ones(len(labels[0]), bool)
        return [counted("label_agreement", all_)], [counted("label_agreement", same)]

    def profile(self, contract: Contract, validation_outputs: Tensors | None) -> Profile:
        """What the lowered graph's answers look like without drift; the version's own profile without a data set."""
        if self.dataset is None or validation_outputs is None:
            return contract.profile
        unwatched = self.recipe.unwatched if self.recipe else ()
        return reference_profile(
            contract.preprocess,
            contract.postprocess,
            self.dataset,
            validation_outputs,
            unwatched,
            contract.profile.embedding,
        )


def of_recipe(contract: Contract, data_dir: Path | None) -> Material:
    """The data set of the recipe that a version names; raises RecipeNotFound, and what reading the data raises."""
    name = str(contract.provenance.config.get("recipe", ""))
    try:
        recipe = find(name.removesuffix("-quick"))
    except RecipeNotFound as exc:
        raise RecipeNotFound(
            f"{contract.name} version {contract.version} names no recipe whose data could be used ({name or 'none'}): "
            "give samples with --samples"
        ) from exc
    dataset = recipe.load(data_dir)
    chosen = np.random.default_rng(_SEED).permutation(len(dataset.train))[:NUM_CALIBRATION]
    return Material(
        name=dataset.name,
        split="test",
        calibration=dataset.train.take(chosen).inputs,
        judged=dataset.test.inputs,
        targets=dataset.test.targets,
        recipe=recipe.quick() if name.endswith("-quick") else recipe,
        dataset=dataset,
    )


def of_file(contract: Contract, path: Path) -> Material:
    """A `.npz` file as `tidegate import` takes it: every second sample calibrates, the others judge.

    Raises TrainingError when it doesn't hold the contract's inputs, or fewer than two samples.
    """
    arrays = read_arrays(path)
    targets = None if TARGET in {spec.name for spec in contract.inputs} else arrays.pop(TARGET, None)
    sizes = {len(array) for array in (*arrays.values(), *([] if targets is None else [targets])) if array.ndim}
    expected = sorted(spec.name for spec in contract.inputs)
    if sorted(arrays) != expected or len(sizes) != 1 or min(sizes) < 2:
        raise DataInvalid(f"{path}: expected at least two samples each of {expected}, got {sorted(arrays)} of {sizes}")
    return Material(
        name=path.name,
        split="samples",
        calibration={name: array[::2] for name, array in arrays.items()},
        judged={name: array[1::2] for name, array in arrays.items()},
        targets=None if targets is None else targets[1::2],
    )
