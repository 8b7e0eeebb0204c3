"""Model repositories in several places, and what makes one of them hold what another one does.

A version never changes once it is published, so two places agree on it when its contract is the same bytes, and the
contract names every other file with its digest. A copy is made aside, held against these, and only then put in its
place; what is served is said last, by `config.pbtxt`. So a copy that is broken off at any moment has changed nothing
that is served, and the next one goes on after the files that are there already.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from contract import Contract, Repository
from contract.digest import sha256_of, verify
from contract.disk import sync_entry, sync_tree
from contract.repository import CONFIG_FILE
from contract.schema import CONTRACT_FILE, Artifact
from tidegate.error import CommandError

Say = Callable[[str], None]

_LOCK_TIMEOUT_S = 60.0
_LOCK_POLL_S = 0.1


class DeliveryError(CommandError):
    """Models can't be copied; what was served before is served still."""


@dataclass(frozen=True, order=True, slots=True)
class Version:
    """One version of a model."""

    model: str
    number: int

    def __str__(self) -> str:
        """`fashion-mnist version 3`."""
        return f"{self.model} version {self.number}"


class Store(Protocol):
    """A place that holds a model repository. Raises DeliveryError where it can't be reached, read or written."""

    def versions(self) -> Mapping[Version, str]:
        """SHA-256 of each version's contract."""

    def configs(self) -> Mapping[str, str]:
        """`config.pbtxt` of each model."""

    def fetch(self, version: Version, folder: Path) -> None:
        """Put a version's files into a folder, its contract last; those that are there and right already are kept."""

    def add(self, version: Version, folder: Path) -> None:
        """Take a version from a folder that was held against its contract."""

    def configure(self, configs: Mapping[str, str]) -> None:
        """Say what is served of each of these models, all of whose versions are there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Synced:
    """What a copy did: versions that were missing, and models of which something else is served now."""

    copied: tuple[Version, ...]
    configured: tuple[str, ...]


class Folder:
    """A repository on a disk or a mounted volume, which Triton and gateways may be serving meanwhile."""

    def __init__(self, root: Path) -> None:
        self._repository = Repository(root)
        self.scratch = self._repository.staging / "sync"

    def versions(self) -> Mapping[Version, str]:
        """Those that have a contract: what has none can't be verified, and isn't copied."""
        found = {}
        for model in sorted(self._repository.root.iterdir()) if self._repository.root.is_dir() else ():
            for number in self._repository.versions(model.name):
                with suppress(FileNotFoundError):
                    path = self._repository.version_dir(model.name, number) / CONTRACT_FILE
                    found[Version(model.name, number)] = sha256_of(path)
        return found

    def configs(self) -> Mapping[str, str]:
        """Of each model that has one."""
        root = self._repository.root
        return {m: (root / m / CONFIG_FILE).read_text(encoding="utf-8") for m in self._repository.models()}

    def fetch(self, version: Version, folder: Path) -> None:
        """Copy, file by file."""
        source = self._repository.version_dir(version.model, version.number)

        def copy(entry: Artifact, target: Path) -> None:
            shutil.copyfile(source / entry.path, target)

        fill(folder, (source / CONTRACT_FILE).read_bytes(), copy)

    def add(self, version: Version, folder: Path) -> None:
        """Rename the version in, once it is on the disk to the last byte."""
        target = self._repository.version_dir(version.model, version.number)
        with self._locked():
            if target.exists():
                raise DeliveryError(f"{version} came in meanwhile, from elsewhere: copy again")
            sync_tree(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(target)
            sync_entry(target.parent)

    def configure(self, configs: Mapping[str, str]) -> None:
        """Replace each configuration in one step."""
        with self._locked():
            for model, text in configs.items():
                aside = self.scratch / CONFIG_FILE
                aside.write_text(text, encoding="utf-8")
                sync_entry(aside)
                aside.replace(self._repository.root / model / CONFIG_FILE)
                sync_entry(self._repository.root / model)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the repository against publishers, by the lock that they hold; it goes with the process."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        with (self._repository.staging / "lock").open("a") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise DeliveryError(
                            f"another process publishes into {self._repository.root}; waited {_LOCK_TIMEOUT_S:g} s, "
                            "try again later"
                        ) from None
                    time.sleep(_LOCK_POLL_S)
            yield


def synchronise(source: Store, target: Store, *, models: Sequence[str] = (), say: Say = lambda _: None) -> Synced:
    """Copy what `target` lacks of the named models, or of all, and serve there what is served at `source`.

    Raises DeliveryError, or ContractError for files that aren't what their contract says; what is served at `target`
    is then as it was. Versions that only `target` has stay there.
    """
    configs, versions = source.configs(), source.versions()
    known = sorted(configs.keys() & {version.model for version in versions})
    if missing := sorted(set(models) - set(known)):
        raise DeliveryError(f"there is no model {missing[0]} with a contract; models are {known}")
    wanted = {version: digest for version, digest in versions.items() if version.model in (models or known)}
    there = target.versions()
    for version, digest in wanted.items():
        if there.get(version, digest) != digest:
            raise DeliveryError(f"{version} is another one at the target: a published version never changes")
    copied = sorted(version for version in wanted if version not in there)
    with _scratch(source, target) as scratch:
        for version in copied:
            place = scratch / wanted[version][:12]
            folder = place / version.model / str(version.number)
            source.fetch(version, folder)
            contract = Contract.load(folder)
            verify(contract, folder)
            target.add(version, folder)
            say(f"{version}: {sum(a.size_bytes for a in contract.artifacts):,} bytes")
            shutil.rmtree(place, ignore_errors=True)
    before = target.configs()
    changed = {model: configs[model] for model in (models or known) if before.get(model) != configs[model]}
    if changed or copied:  # in a registry, versions are there with the next tag only
        target.configure(changed)
    return Synced(copied=tuple(copied), configured=tuple(sorted(changed)))


def fill(folder: Path, contract_text: bytes, get: Callable[[Artifact, Path], None]) -> None:
    """Make `folder` hold a version's files: what is there and right is kept, the rest is got, the contract is last."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        contract = Contract.model_validate_json(contract_text)
    except ValueError as exc:
        raise DeliveryError(f"a contract at the source can't be read: {exc}") from exc
    for entry in contract.artifacts:
        target = folder / entry.path
        if target.is_file() and target.stat().st_size == entry.size_bytes and sha256_of(target) == entry.sha256:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        get(entry, target)
    (folder / CONTRACT_FILE).write_bytes(contract_text)


@contextmanager
def _scratch(source: Store, target: Store) -> Iterator[Path]:
    """Where copies are made: beside the repository of the target, where they stay for another try."""
    for each in (target, source):
        if isinstance(each, Folder) and os.access(each.scratch.parent.parent, os.W_OK):
            each.scratch.mkdir(parents=True, exist_ok=True)
            yield each.scratch
            return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
