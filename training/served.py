"""Which versions of a model Triton shall load, and the `config.pbtxt` that says so: the newest that aren't withdrawn.

Triton has one configuration a model, shared by its versions: so versions are served side by side only when they take
the same inputs, give the same outputs, have the same batch limits and the file that the newest one's runtime loads.
"""

from collections.abc import Set
from dataclasses import dataclass

from contract.error import ContractError
from contract.repository import Repository, withdrawn_line
from contract.schema import Contract
from contract.triton import MODEL_FILE, Runtime, model_config

NUM_SERVED = 2  # the newest, and the one before it to go back to or to compare with


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """The newest version's contract, the runtime it needs, the versions served with it, and those withdrawn."""

    contract: Contract
    runtime: Runtime
    versions: tuple[int, ...]
    withdrawn: frozenset[int] = frozenset()

    def config(self) -> str:
        """Text of `config.pbtxt`."""
        return withdrawn_line(self.withdrawn) + model_config(self.contract, self.runtime, self.versions)


def runtime_of(contract: Contract) -> Runtime:
    """`tensorrt` when the version holds an engine that Triton loads, else `onnxruntime`."""
    return "tensorrt" if _has(contract, "tensorrt") else "onnxruntime"


def served(
    repository: Repository, model: str, *, joining: Contract | None = None, withdrawn: Set[int] | None = None
) -> Served:
    """What is to be served of a model's published versions, and of one more that is about to be `joining`.

    Withdrawn are those that the repository says, unless others are given. A version whose contract can't be read is
    left out. Raises ValueError when none is left.
    """
    contracts = {} if joining is None else {joining.version: joining}
    present = repository.versions(model)
    withdrawn = frozenset(present) & (repository.withdrawn(model) if withdrawn is None else withdrawn)
    for version in present:
        if version in withdrawn:
            continue
        try:
            contracts.setdefault(version, repository.contract(model, version))
        except ContractError:
            continue
    if not contracts:
        raise ValueError(f"model {model!r} has no version that could be served")
    newest = contracts[max(contracts)]
    runtime = runtime_of(newest)
    fitting = [version for version, contract in contracts.items() if _fits(contract, newest, runtime)]
    return Served(contract=newest, runtime=runtime, versions=tuple(sorted(fitting)[-NUM_SERVED:]), withdrawn=withdrawn)


def newest_served(repository: Repository, model: str) -> Contract | None:
    """The contract of the newest version that is to be served; None when there is none."""
    try:
        return served(repository, model).contract
    except ValueError:
        return None


def _fits(contract: Contract, newest: Contract, runtime: Runtime) -> bool:
    mine, wanted = ((c.inputs, c.outputs, c.batch, c.batched) for c in (contract, newest))
    return mine == wanted and _has(contract, runtime)


def _has(contract: Contract, runtime: Runtime) -> bool:
    return any(artifact.path == MODEL_FILE[runtime] for artifact in contract.artifacts)
