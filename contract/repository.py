"""Where things lie in a model repository. Reading only: publishing belongs to training, loading to serving.

    <root>/<name>/config.pbtxt
    <root>/<name>/<version>/contract.json, model.onnx, ...

Triton takes every folder in the root for a model, so whatever else is needed lies in a sibling folder on the same
file system, from where a finished version is renamed into place.
"""

from dataclasses import dataclass
from pathlib import Path

from contract.digest import verify
from contract.error import ContractNotFound
from contract.schema import CONTRACT_FILE, Contract

CONFIG_FILE = "config.pbtxt"


@dataclass(frozen=True, slots=True)
class Repository:
    """A model repository on disk."""

    root: Path

    @property
    def staging(self) -> Path:
        """Sibling folder for versions being made, the publish lock and the numbers already given out."""
        return self.root.resolve().parent / f".{self.root.resolve().name}.staging"

    def models(self) -> list[str]:
        """Names of all models, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if (path / CONFIG_FILE).is_file())

    def versions(self, model: str) -> list[int]:
        """Version numbers that have a folder, ascending."""
        folder = self.root / model
        if not folder.is_dir():
            return []
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())

    def version_dir(self, model: str, version: int | str) -> Path:
        """Folder of one version, whether it exists or not."""
        return self.root / model / str(version)

    def contract(self, model: str, version: int | str, *, verified: bool = False) -> Contract:
        """The contract of a version; with `verified`, all its files are held against their digests first.

        Raises ContractNotFound, ContractInvalid or DigestMismatch.
        """
        folder = self.version_dir(model, version)
        contract = Contract.load(folder)
        if verified:
            verify(contract, folder)
        return contract

    def latest(self, model: str) -> Contract:
        """The contract of the newest version that has one; ContractNotFound when none has."""
        for version in reversed(self.versions(model)):
            if (self.version_dir(model, version) / CONTRACT_FILE).is_file():
                return self.contract(model, version)
        raise ContractNotFound(f"model {model!r} has no published version")
