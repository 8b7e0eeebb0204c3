"""What is published in a repository, and what Triton says of it."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from contract import Contract, ContractError, Passport, Repository
from serving import ServingError
from serving.control import Control

if TYPE_CHECKING:
    from training.recipe import Recipe

_TIMEOUT_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One version, in words. `problem` says why it can't be used; it is empty where it can."""

    model: str
    version: int
    quality: str = ""
    engine: str = "none"
    state: str
    problem: str = ""


def versions(root: Path, triton: str) -> list[Row]:
    """Every version in the repository, newest first; `triton` is asked which of them it serves."""
    repository = Repository(root)
    try:
        with Control(triton, timeout_s=_TIMEOUT_S) as control:
            served = control.serving()
    except ServingError:
        served = None
    rows = []
    for name in repository.models():
        withdrawn = repository.withdrawn(name)
        for version in reversed(repository.versions(name)):
            if served is None:
                state = "Triton doesn't answer"
            else:
                state = "served" if version in served.get(name, ()) else "not loaded"
            if version in withdrawn:
                state = "withdrawn, still served" if state == "served" else "withdrawn"
            rows.append(_row(repository, name, version, state))
    return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeRow:
    """One recipe; `version` is the newest that was published by it, `quality` that version's, where there is one."""

    name: str
    model: str
    task: str
    description: str
    data: str
    num_parameters: int
    version: int | None
    quality: str


def recipe_rows(root: Path) -> list[RecipeRow]:
    """Every recipe, and the newest version of each in the repository."""
    from training.recipe import find, names

    return [_recipe_row(Repository(root), find(name)) for name in names()]


def _recipe_row(repository: Repository, recipe: "Recipe") -> RecipeRow:
    made = None
    for version in reversed(repository.servable(recipe.model)):
        with suppress(ContractError):
            contract = repository.contract(recipe.model, version)
            if contract.provenance.config.get("recipe") == recipe.name:
                made = contract
                break
    return RecipeRow(
        name=recipe.name,
        model=recipe.model,
        task=recipe.task,
        description=recipe.description,
        data=recipe.data,
        num_parameters=sum(parameter.numel() for parameter in recipe.network().parameters()),
        version=made.version if made else None,
        quality=_quality(made) if made else "",
    )


def _row(repository: Repository, name: str, version: int, state: str) -> Row:
    try:
        contract = repository.contract(name, version)
        engine = _engine(contract, repository.version_dir(name, version))
    except ContractError as exc:
        return Row(model=name, version=version, state=state, problem=str(exc))
    return Row(model=name, version=version, quality=_quality(contract), engine=engine, state=state)


def _quality(contract: Contract) -> str:
    if not contract.evaluation.measured:
        return "not measured"
    first = contract.evaluation.metrics[0]
    return f"{first.name} {first.value:.4f} ({first.low:.4f} to {first.high:.4f})"


def _engine(contract: Contract, version_dir: Path) -> str:
    if contract.artifact("passport") is None:
        return "none"
    passport = Passport.load(version_dir)
    targets = ", ".join(f"sm_{cc.replace('.', '')}" for cc in passport.compute_capabilities)
    return f"{passport.builder} {passport.builder_version}: {targets}"
