import math
from dataclasses import replace

import pytest

from contract.schema import EmbeddingPostprocess
from tests.sample import few_samples
from training.error import RecipeNotFound
from training.recipe import find, names

# Of the metrics that aren't shares of samples.
RANGES = {"bleu": (0.0, 100.0), "perplexity": (1.0, math.inf), "qlike": (0.0, math.inf)}


def test_an_unknown_recipe_names_those_near_it() -> None:
    with pytest.raises(RecipeNotFound, match="got 'fashion-res'; near it are fashion-resnet"):
        find("fashion-res")


@pytest.mark.parametrize("name", names())
def test_a_recipe_says_what_it_is(name: str) -> None:
    """That its parts fit one another is shown where each goes down the whole line."""
    recipe = find(name)
    assert recipe.name == name
    assert recipe.data
    assert recipe.description.endswith(".")
    for form in (recipe, recipe.quick()):
        assert form.gates
        assert form.describe()["recipe"] == form.name


@pytest.mark.parametrize(
    ("name", "baseline"), [(name, baseline) for name in names() for baseline in find(name).baselines]
)
def test_a_baseline_is_a_value_of_the_first_metric(name: str, baseline: str) -> None:
    recipe = find(name)
    value = recipe.baselines[baseline](few_samples(recipe))
    low, high = RANGES.get(recipe.gates[0].metric, (0.0, 1.0))
    assert math.isfinite(value)
    assert low <= value <= high


def test_a_quick_recipe_keeps_to_its_own_folder() -> None:
    recipe = find("fashion-resnet")
    assert recipe.quick().name != recipe.name
    assert recipe.quick().model == recipe.model
    assert recipe.quick().describe() != recipe.describe()


def test_the_fashion_network_has_the_size_that_its_docstring_says() -> None:
    network = find("fashion-resnet").network()
    assert sum(parameter.numel() for parameter in network.parameters()) == 78_042


def test_a_recipe_whose_answers_cant_be_judged_is_refused_before_it_is_trained() -> None:
    with pytest.raises(ValueError, match="give metrics, for there are none for postprocessing of kind 'embedding'"):
        replace(find("fashion-resnet"), postprocess=EmbeddingPostprocess(tensor="logits"))


def test_a_recipe_whose_embedding_is_none_is_refused_before_it_is_trained() -> None:
    with pytest.raises(ValueError, match="the embedding 'hidden' is no output of the model: expected one of 'logits'"):
        replace(find("fashion-resnet"), embedding="hidden")
