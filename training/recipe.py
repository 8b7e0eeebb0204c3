"""A recipe: everything that is particular about one model. The stages are the same for all of them.

The network takes the contract's inputs, in order, and answers the contract's outputs, in order: one tensor, or a
tuple. What it is trained with is what is exported, so there is no second form to keep in step.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from contract.embedding import check_embedding
from contract.schema import AxisRange, Postprocess, Preprocess, Slo, TensorSpec
from contract.tensor import Tensors
from training import recipes
from training.augmentation import Augment
from training.config import TrainConfig
from training.data import Dataset
from training.error import RecipeNotFound
from training.evaluation import Measures, is_measured
from training.gate import Gate
from training.objective import Objective
from training.space import Space
from training.start import Start
from training.structure import structure
from training.teacher import Teacher

QUICK = "-quick"  # what the name of a recipe's quick form ends with


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What is trained, on what, for what, and what the result promises.

    `data` names the data set for people; `load` reads it, from the given folder first where there is one. The quick
    form of a recipe is for trying the machinery: `quick_config` and `quick_gates` take the place of the others.
    Fine-tuning: training begins at `start`, and leaves alone the parameters that a pattern in `frozen` names, as in
    `("stem.*", "blocks.0.*")`. Distillation: a `teacher` is listened to beside the labels. `metrics` judge a kind of
    answer that has none of its own; `space` is what `tidegate sweep` searches. Drift isn't looked for in the inputs and
    features that `unwatched` names: a state that a client hands back says nothing of the data. It is looked for in the
    output that `embedding` names, too. Golden samples are the test split's first ones, unless `golden` makes others of
    the network and that split's inputs: where what is asked in service isn't a whole sample, but a step after others.
    Pre-training: the recipe `after` is trained first, and this one begins with its weights, all but those that a
    pattern in `fresh` names. `baselines` are what anyone would try first: names, and functions that give each one's
    value of the first metric on the test split.
    """

    name: str
    model: str
    task: str
    description: str
    data: str = ""
    load: Callable[[Path | None], Dataset]
    network: Callable[[], nn.Module]
    objective: Objective
    augment: Augment | None = None
    start: Start | None = None
    after: "Recipe | None" = None
    fresh: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    teacher: Teacher | None = None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: AxisRange
    preprocess: Preprocess
    postprocess: Postprocess
    metrics: Measures | None = None
    unwatched: tuple[str, ...] = ()
    embedding: str | None = None
    golden: Callable[[nn.Module, Tensors], Tensors] | None = None
    slo: Slo
    config: TrainConfig
    gates: tuple[Gate, ...]
    quick_config: TrainConfig
    quick_gates: tuple[Gate, ...]
    space: Space = field(default_factory=dict)
    baselines: Mapping[str, Callable[[Dataset], float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.after is not None and self.start is not None:
            raise ValueError(f"recipe {self.name}: give a recipe to come after, or weights to start from, not both")
        if self.metrics is None and not is_measured(self.postprocess):
            raise ValueError(
                f"recipe {self.name}: give metrics, for there are none for postprocessing of kind "
                f"{self.postprocess.kind!r}"
            )
        if self.embedding is not None:
            check_embedding(self.embedding, self.outputs)

    def quick(self) -> "Recipe":
        """The quick form: its own name, so its own run folder, and its lower gates recorded with the version."""
        return replace(
            self,
            name=f"{self.name}{QUICK}",
            description=f"{self.description} Quick run to try the machinery, not for use.",
            config=self.quick_config,
            gates=self.quick_gates,
            after=None if self.after is None else self.after.quick(),
        )

    def begun(self, runs_dir: Path) -> "Recipe":
        """The recipe with the weights of the one it comes after, whose run lies in `runs_dir`; itself without one."""
        if self.after is None:
            return self
        return replace(self, after=None, start=Start(weights=runs_dir / self.after.name, fresh=self.fresh))

    def describe(self) -> dict[str, Any]:
        """The run's identity, and part of its provenance, in JSON's types; the data have their own.

        Raises RunMismatch when the start or the teacher isn't there any more.
        """
        with torch.random.fork_rng(devices=[]):
            network = self.network()
        parts: dict[str, Any] = {
            "recipe": self.name,
            "network": structure(network),
            "train": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.config).items()},
            "objective": _describe(self.objective),
            "augment": _describe(self.augment),
        }
        if self.start is not None:
            parts["start"] = self.start.describe()
        if self.frozen:
            parts["frozen"] = list(self.frozen)
        if self.teacher is not None:
            parts["teacher"] = self.teacher.describe()
        return parts


def names() -> list[str]:
    """Names of all recipes, sorted."""
    return sorted(_catalogue())


def find(name: str) -> Recipe:
    """The recipe of that name; raises RecipeNotFound."""
    try:
        return _catalogue()[name]
    except KeyError:
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise RecipeNotFound(f"expected one of the recipes that `tidegate recipes` lists, got {name!r}{hint}") from None


@cache
def _catalogue() -> dict[str, Recipe]:
    """Every recipe by name: each module of `training.recipes` holds some in `RECIPES`."""
    found: dict[str, Recipe] = {}
    for module in pkgutil.iter_modules(recipes.__path__, f"{recipes.__name__}."):
        for recipe in importlib.import_module(module.name).RECIPES:
            assert isinstance(recipe, Recipe)
            assert recipe.name not in found
            found[recipe.name] = recipe
    return found


def _describe(part: Any) -> Any:
    """A dataclass with the name of its kind, and so the dataclasses in it; anything else as it is."""
    if isinstance(part, tuple):
        return [_describe(each) for each in part]
    if not is_dataclass(part):
        return part
    return {"kind": type(part).__name__, **{f.name: _describe(getattr(part, f.name)) for f in fields(part)}}
