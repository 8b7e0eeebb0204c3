"""A recipe: everything that is particular about one model. The stages are the same for all of them.

The network takes the contract's inputs, in order, and answers the contract's outputs, in order: one tensor, or a
tuple. What it is trained with is what is exported, so there is no second form to keep in step.
"""

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from contract.schema import AxisRange, ClassificationPostprocess, Postprocess, Preprocess, Slo, TensorSpec
from training.augmentation import Augment
from training.config import TrainConfig
from training.data import Dataset
from training.error import RecipeNotFound
from training.gate import Gate
from training.objective import Objective

# Imported when asked for: a recipe may need a library that another one doesn't.
_MODULES = {"fashion-resnet": "training.recipes.fashion_resnet"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What is trained, on what, for what, and what the result promises.

    `load` reads the data set, from the given folder first where there is one. The quick form of a recipe is for
    trying the machinery: `quick_config` and `quick_gates` take the place of the others.
    """

    name: str
    model: str
    task: str
    description: str
    load: Callable[[Path | None], Dataset]
    network: Callable[[], nn.Module]
    objective: Objective
    augment: Augment | None = None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: AxisRange
    preprocess: Preprocess
    postprocess: Postprocess
    slo: Slo
    config: TrainConfig
    gates: tuple[Gate, ...]
    quick_config: TrainConfig
    quick_gates: tuple[Gate, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.postprocess, ClassificationPostprocess):
            raise ValueError(f"recipe {self.name}: no metrics for postprocessing of kind {self.postprocess.kind!r} yet")

    def quick(self) -> "Recipe":
        """The quick form: its own name, so its own run folder, and its lower gates recorded with the version."""
        return replace(
            self,
            name=f"{self.name}-quick",
            description=f"{self.description} Quick run to try the machinery, not for use.",
            config=self.quick_config,
            gates=self.quick_gates,
        )

    def describe(self) -> dict[str, Any]:
        """The run's identity, and part of its provenance, in JSON's types; the network and the data have their own."""
        return {
            "recipe": self.name,
            "train": asdict(self.config),
            "objective": _describe(self.objective),
            "augment": _describe(self.augment),
        }


def names() -> list[str]:
    """Names of all recipes, sorted."""
    return sorted(_MODULES)


def find(name: str) -> Recipe:
    """The recipe of that name; raises RecipeNotFound."""
    try:
        module = importlib.import_module(_MODULES[name])
    except KeyError:
        raise RecipeNotFound(f"expected one of the recipes {', '.join(names())}, got {name!r}") from None
    found = module.RECIPE
    assert isinstance(found, Recipe)
    return found


def _describe(part: Any) -> dict[str, Any] | None:
    return None if part is None else {"kind": type(part).__name__, **asdict(part)}
