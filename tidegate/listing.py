"""What is published in a repository, and what Triton says of it."""

from dataclasses import dataclass
from pathlib import Path

from contract import Contract, ContractError, Passport, Repository
from serving import ServingError
from serving.control import Control

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
