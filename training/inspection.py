"""A data set is looked at before it is learned from: what is wrong with it is said in words, not as a bad loss."""

from contract.error import TensorError
from contract.schema import AxisRange
from contract.tensor import check
from training.data import Dataset, Split
from training.error import DataInvalid
from training.recipe import Recipe

_NUM_CHECKED = 512  # samples at a time, for what is looked at may be many and large
_BATCH = AxisRange(min=1, opt=_NUM_CHECKED, max=_NUM_CHECKED)


def inspect(recipe: Recipe, dataset: Dataset) -> None:
    """Hold all three splits against the recipe's inputs and its objective.

    Raises DataInvalid for a tensor of another datatype or shape, NaN or infinity, a target that the objective can't
    take (a label out of range), or a class without a training sample.
    """
    for name, split in (("training", dataset.train), ("validation", dataset.validation), ("test", dataset.test)):
        whole = split is dataset.train and recipe.config.num_train is None
        try:
            _check_inputs(recipe, split)
            recipe.objective.check(recipe.outputs, split.targets, whole=whole)
        except (TensorError, ValueError) as exc:
            raise DataInvalid(f"{dataset.name}, {name} split: {exc}") from exc


def _check_inputs(recipe: Recipe, split: Split) -> None:
    missing = {spec.name for spec in recipe.inputs} ^ split.inputs.keys()
    if missing:
        expected = ", ".join(spec.name for spec in recipe.inputs)
        raise ValueError(f"expected the inputs {expected}, got {', '.join(split.inputs)}")
    for spec in recipe.inputs:
        array = split.inputs[spec.name]
        for start in range(0, len(split), _NUM_CHECKED):
            check(spec, _BATCH, array[start : start + _NUM_CHECKED])
