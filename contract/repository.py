"""Where things lie in a model repository. Reading only: publishing belongs to training, loading to serving.

    <root>/<name>/config.pbtxt
    <root>/<name>/<version>/contract.json, model.onnx, ...

Triton takes every folder in the root for a model, so whatever else is needed lies in a sibling folder on the same
file system, from where a finished version is renamed into place.

`config.pbtxt` alone ever changes: it names the versions that are served, and in a comment those that were withdrawn. So
one rename takes a version back, whole; and as Triton sees no more than a version less, what it has loaded stays loaded.
"""

import re
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from contract.digest import verify
from contract.error import ContractNotFound
from contract.schema import CONTRACT_FILE, Contract

CONFIG_FILE = "config.pbtxt"

_WITHDRAWN = re.compile(r"^# Withdrawn: ([\d, ]+)$", re.MULTILINE)


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

    def withdrawn(self, model: str) -> frozenset[int]:
        """Versions that were taken back: they stay where they are, and nobody serves them."""
        try:
            config = (self.root / model / CONFIG_FILE).read_text(encoding="utf-8")
        except FileNotFoundError:
            return frozenset()
        found = _WITHDRAWN.search(config)
        return frozenset(map(int, found[1].split(","))) if found else frozenset()

    def servable(self, model: str) -> list[int]:
        """Versions that have a contract and aren't withdrawn, ascending."""
        withdrawn = self.withdrawn(model)
        return [
            version
            for version in self.versions(model)
            if version not in withdrawn and (self.version_dir(model, version) / CONTRACT_FILE).is_file()
        ]

    def latest(self, model: str) -> Contract:
        """The contract of the newest version that is servable; ContractNotFound when none is."""
        versions = self.servable(model)
        if not versions:
            raise ContractNotFound(f"model {model!r} has no published version")
        return self.contract(model, versions[-1])


def withdrawn_line(versions: Set[int]) -> str:
    """What `config.pbtxt` says of withdrawn versions, so that `Repository.withdrawn` finds it."""
    return f"# Withdrawn: {', '.join(map(str, sorted(versions)))}\n" if versions else ""
