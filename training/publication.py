"""Publishing a version: made aside, on the disk to the last byte, then renamed into the repository in one step.

A version is made in a draft folder inside `repository.staging`, on the repository's own file system. Whoever is killed
while making one leaves a draft that nothing loads, and the next publisher removes it. The order of the last steps:

- a model's first version: its whole folder, `config.pbtxt` included, is renamed in;
- a later one: its version folder is renamed in, which the old `config.pbtxt` doesn't name, so Triton doesn't load it;
  then `config.pbtxt` is replaced.

Going back to an earlier version replaces `config.pbtxt` and touches nothing else. So at every moment the repository
holds whole versions only, and a configuration that names nothing else.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from contract.digest import verify
from contract.disk import sync_entry, sync_tree
from contract.repository import CONFIG_FILE, Repository
from contract.schema import CONTRACT_FILE, Contract
from training.durable import explanation, write_atomically
from training.error import PublishFailed
from training.external import check_enclosed
from training.ledger import next_version
from training.lock import exclusive, is_free
from training.served import Served, newest_served, served

LOCK_TIMEOUT_S = 30.0  # publishers hold the lock for a few renames, never while they train or compile
_LOCK_FILE = "lock"
_OWNER_FILE = "owner"
_DRAFT_PREFIX = "draft-"

Step = Callable[[str], None]


def _unwatched(_: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A version being made: its number is given out, its files go into `folder`.

    `step` is told each step of publishing as it is about to be done.
    """

    repository: Repository
    model: str
    version: int
    folder: Path
    step: Step = field(default=_unwatched)
    lock_timeout_s: float = LOCK_TIMEOUT_S

    def publish(self, contract: Contract, *, follows: int | None = None) -> Served:
        """Publish the folder's files, which the contract names with their digests; what is served from now on.

        `follows` is the version that must still be the newest served, 0 for none at all, or None for any.

        Raises PublishFailed when the contract isn't this draft's, the folder holds other files, another version came
        in between or the disk refuses; DigestMismatch when a file isn't the one that the contract names; LockTimeout
        when another publisher doesn't finish.
        """
        if (contract.name, contract.version) != (self.model, self.version):
            raise PublishFailed(
                f"expected the contract of {self.model} version {self.version}, "
                f"got that of {contract.name} version {contract.version}"
            )
        with explained(self.repository):
            self.step("save")
            contract.save(self.folder)
            self._check_files(Contract.load(self.folder))
            self.step("sync")
            sync_tree(self.folder)
            with locked(self.repository, self.lock_timeout_s):
                self._check_follows(follows)
                return self._rename_in(contract)

    def _check_files(self, contract: Contract) -> None:
        """The contract's files and no others: what nobody hashed, nobody would miss or find changed."""
        verify(contract, self.folder)
        named = {artifact.path for artifact in contract.artifacts}
        files = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if not path.is_dir()}
        if strays := sorted(files - named - {CONTRACT_FILE}):
            raise PublishFailed(
                f"the draft of {self.model} holds {', '.join(strays):.200}, which its contract doesn't name: "
                "name it as an artifact or take it away; nothing was published"
            )
        for path in sorted(path for path in named if path.endswith(".onnx")):
            check_enclosed(self.folder / path, named)

    def _check_follows(self, follows: int | None) -> None:
        newest = newest_served(self.repository, self.model)
        now = newest.version if newest else 0
        if follows is not None and now != follows:
            raise PublishFailed(
                f"{self.model} was compared with version {follows or 'none'}, and by now version {now or 'none'} is "
                "served: publish again to compare with that; nothing was published"
            )

    def _rename_in(self, contract: Contract) -> Served:
        now = served(self.repository, self.model, joining=contract)
        published = self.repository.root / self.model
        if published.is_dir():
            aside = self.folder.parent / CONFIG_FILE
            write_atomically(aside, now.config().encode())  # first: a full disk is met before anything has moved
            self.step("rename version")
            self.folder.rename(self.repository.version_dir(self.model, self.version))
            sync_entry(published)
            self.step("replace config")
            aside.replace(published / CONFIG_FILE)
            sync_entry(published)
        else:
            write_atomically(self.folder.parent / CONFIG_FILE, now.config().encode())
            self.repository.root.mkdir(parents=True, exist_ok=True)
            self.step("rename model")
            self.folder.parent.rename(published)
            sync_entry(self.repository.root)
        self.step("done")
        return now


@contextmanager
def draft(
    repository: Repository, model: str, *, step: Step = _unwatched, lock_timeout_s: float = LOCK_TIMEOUT_S
) -> Iterator[Draft]:
    """Begin a version: clean up after killed publishers, give out a number, make the folder; removed at the end.

    Raises PublishFailed when the disk refuses, LockTimeout when another publisher doesn't finish.
    """
    with ExitStack() as stack:
        with explained(repository), locked(repository, lock_timeout_s):
            _remove_abandoned(repository)
            version = next_version(repository, model)
            step("number given out")
            folder = repository.staging / f"{_DRAFT_PREFIX}{model}.{version}"
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            (folder / model / str(version)).mkdir(parents=True)
            owner = f"the draft of {model} version {version}"
            stack.enter_context(exclusive(folder / _OWNER_FILE, owner))
        with explained(repository):
            yield Draft(
                repository=repository,
                model=model,
                version=version,
                folder=folder / model / str(version),
                step=step,
                lock_timeout_s=lock_timeout_s,
            )


def rollback(
    repository: Repository,
    model: str,
    to: int | None = None,
    *,
    step: Step = _unwatched,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
) -> Served:
    """Make an earlier version the newest that is served; without `to`, the one before. Later ones are withdrawn.

    Or a later one: naming a withdrawn version brings it back. Of older versions those go on that are served already, so
    that nothing but the named one has to be loaded first. What is served from now on.

    Raises PublishFailed when there is no such version or the disk refuses, ContractError when its files aren't what was
    published, LockTimeout when a publisher doesn't finish; then nothing was changed.
    """
    with explained(repository, "nothing was changed"), locked(repository, lock_timeout_s):
        before = _before(repository, model)
        present = set(repository.versions(model))
        target = _target(repository, before, present, to)
        repository.contract(model, target, verified=True)
        later = {version for version in present if version > target}
        after = served(repository, model, withdrawn=later | (before.withdrawn - {target}))
        now = replace(after, versions=tuple(v for v in after.versions if v == target or v in before.versions))
        aside = repository.staging / f"{model}.{CONFIG_FILE}"
        write_atomically(aside, now.config().encode())
        step("replace config")
        aside.replace(repository.root / model / CONFIG_FILE)
        sync_entry(repository.root / model)
        step("done")
        return now


def _before(repository: Repository, model: str) -> Served:
    try:
        return served(repository, model)
    except ValueError as exc:
        raise PublishFailed(f"{exc}; nothing was changed") from exc


def _target(repository: Repository, before: Served, present: set[int], to: int | None) -> int:
    model, newest = before.contract.name, before.contract.version
    if to is not None and to not in present:
        raise PublishFailed(f"{model} has no version {to}; versions are {sorted(present)}; nothing was changed")
    if to is not None:
        return to
    try:
        later = {version for version in present if version >= newest}
        return served(repository, model, withdrawn=later | before.withdrawn).contract.version
    except ValueError:
        raise PublishFailed(
            f"{model} has no version before {newest} to go back to: publish another, or name one of {sorted(present)}; "
            "nothing was changed"
        ) from None


@contextmanager
def explained(repository: Repository, outcome: str = "nothing was published") -> Iterator[None]:
    """Turn what the operating system says about the disk into PublishFailed: one sentence, and what to do."""
    try:
        yield
    except OSError as exc:
        raise PublishFailed(f"{explanation(exc, repository.root)}; {outcome}") from exc


@contextmanager
def locked(repository: Repository, timeout_s: float) -> Iterator[None]:
    """Hold the repository against other publishers; raises LockTimeout."""
    with exclusive(repository.staging / _LOCK_FILE, f"the repository {repository.root}", timeout_s=timeout_s):
        yield


def _remove_abandoned(repository: Repository) -> None:
    """Remove drafts that no living process owns; the caller holds the lock, under which drafts are made."""
    for folder in repository.staging.glob(f"{_DRAFT_PREFIX}*"):
        owner = folder / _OWNER_FILE
        if not owner.is_file() or is_free(owner):
            shutil.rmtree(folder, ignore_errors=True)
