from dataclasses import replace

import pytest

from contract.schema import EmbeddingPostprocess
from contract.tensor import check
from training.error import RecipeNotFound
from training.forward import as_tuple, tensors_of
from training.recipe import find, names


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(RecipeNotFound, match=r"expected one of the recipes .*fashion-resnet.*, got 'fashion'"):
        find("fashion")


@pytest.mark.parametrize("name", names())
def test_a_recipe_is_of_one_piece(name: str) -> None:
    """Its data fits its inputs, its network takes them and answers its outputs, its gates' metrics differ."""
    recipe = find(name)
    assert recipe.name == name
    dataset = recipe.load(None)
    one = {key: array[: recipe.batch.max] for key, array in dataset.validation.inputs.items()}
    for spec in recipe.inputs:
        check(spec, recipe.batch, one[spec.name])
    outputs = as_tuple(recipe.network().eval()(*tensors_of(one, recipe.inputs)))
    for spec, output in zip(recipe.outputs, outputs, strict=True):
        check(spec, recipe.batch, output.detach().numpy())
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
