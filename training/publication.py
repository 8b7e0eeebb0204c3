"""Publishing a version: made aside, on the disk to the last byte, then renamed into the repository in one step.

A version is made in a draft folder inside `repository.staging`, on the repository's own file system. Whoever is killed
while making one leaves a draft that nothing loads, and the next publisher removes it. The order of the last steps:

- a model's first version: its whole folder, `config.pbtxt` included, is renamed in;
- a later one: its version folder is renamed in, which the old `config.pbtxt` doesn't name, so Triton doesn't load it;
  then `config.pbtxt` is replaced.

So at every moment the repository holds whole versions only, and a configuration that names nothing else.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from contract.digest import verify
from contract.repository import CONFIG_FILE, Repository
from contract.schema import Contract
from training.durable import explanation, sync_entry, sync_tree, write_atomically
from training.error import PublishFailed
from training.ledger import next_version
from training.lock import exclusive, is_free
from training.served import Served, served

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

    def publish(self, contract: Contract) -> Served:
        """Publish the folder's files, which the contract names with their digests; what is served from now on.

        Raises PublishFailed when the contract isn't this draft's or the disk refuses, DigestMismatch when a file isn't
        the one that the contract names, LockTimeout when another publisher doesn't finish.
        """
        if (contract.name, contract.version) != (self.model, self.version):
            raise PublishFailed(
                f"expected the contract of {self.model} version {self.version}, "
                f"got that of {contract.name} version {contract.version}"
            )
        with explained(self.repository):
            self.step("save")
            contract.save(self.folder)
            verify(Contract.load(self.folder), self.folder)
            self.step("sync")
            sync_tree(self.folder)
            with _locked(self.repository, self.lock_timeout_s):
                return self._rename_in(contract)

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
        with explained(repository), _locked(repository, lock_timeout_s):
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


@contextmanager
def explained(repository: Repository) -> Iterator[None]:
    """Turn what the operating system says about the disk into PublishFailed: one sentence, and what to do."""
    try:
        yield
    except OSError as exc:
        raise PublishFailed(f"{explanation(exc, repository.root)}; nothing was published") from exc


@contextmanager
def _locked(repository: Repository, timeout_s: float) -> Iterator[None]:
    with exclusive(repository.staging / _LOCK_FILE, f"the repository {repository.root}", timeout_s=timeout_s):
        yield


def _remove_abandoned(repository: Repository) -> None:
    """Remove drafts that no living process owns; the caller holds the lock, under which drafts are made."""
    for folder in repository.staging.glob(f"{_DRAFT_PREFIX}*"):
        owner = folder / _OWNER_FILE
        if not owner.is_file() or is_free(owner):
            shutil.rmtree(folder, ignore_errors=True)
