"""Some samples of a recipe's real data, for tests that only need a few."""

from dataclasses import replace

from training.data import Dataset
from training.recipe import Recipe

NUM_TRAIN, NUM_JUDGED = 512, 48

_datasets: dict[object, Dataset] = {}


def few_samples(recipe: Recipe) -> Dataset:
    """The first of each split, loaded once for all recipes and all tests that learn from it."""
    owner = getattr(recipe.load, "__self__", recipe.load)
    key = id(owner), getattr(recipe.load, "__name__", "")
    if key not in _datasets:
        whole = recipe.load(None)
        validation, test = (part.take(slice(NUM_JUDGED)) for part in (whole.validation, whole.test))
        _datasets[key] = replace(whole, train=whole.train.take(slice(NUM_TRAIN)), validation=validation, test=test)
    return _datasets[key]
