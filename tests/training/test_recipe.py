from dataclasses import replace

import pytest

from contract.schema import EmbeddingPostprocess
from training.error import RecipeNotFound
from training.recipe import find, names


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
