"""Which models and versions are served: Triton's index joined with the contracts in the repository.

A new version is picked up, and a lost Triton noticed and found again, without a restart.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contract import Contract, ContractError, ContractNotFound, Repository
from contract.answer import Answerer, answerer
from contract.observation import Observer
from contract.preprocess import Preprocessor, preprocessor
from contract.room import Room
from contract.schema import CONTRACT_FILE
from gateway.error import DeadlineExceeded, UnknownModel, UpstreamError, UpstreamFailed, UpstreamUnavailable
from gateway.upstream import IndexEntry, Upstream

log = logging.getLogger(__name__)

Key = tuple[str, str]  # model name, version

_INDEX_TIMEOUT_S = 2.0
_DOWN_INTERVAL_S = 0.25  # while Triton is away, looking for it often costs nothing


@dataclass(frozen=True, eq=False, slots=True)
class Served:
    """A version that Triton has ready. Without a contract its tensors pass through unchecked."""

    name: str
    version: str
    contract: Contract | None = None
    observer: Observer | None = None
    preprocess: Preprocessor | None = None
    answer: Answerer | None = None
    label: str = field(init=False)  # how metrics name it

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", f"{self.name}/{self.version}")


@dataclass(frozen=True, slots=True)
class Change:
    """What a refresh found: versions that are served from now on, and those that no longer are."""

    added: tuple[Served, ...]
    removed: tuple[Served, ...]


class Catalog:
    """The served versions, refreshed by polling. Reads are plain dictionary look-ups on an immutable snapshot."""

    def __init__(
        self,
        repository: Repository,
        upstream: Upstream,
        *,
        room: Room,
        on_change: Callable[[Change], None],
        on_up: Callable[[bool], None],
    ) -> None:
        self.repository = repository
        self._room = room
        self._upstream = upstream
        self._on_change = on_change
        self._on_up = on_up
        self._served: Mapping[str, Mapping[str, Served]] = {}
        self._newest: Mapping[str, Served] = {}
        self._known: frozenset[str] = frozenset()
        self._listed: frozenset[Key] = frozenset()
        self._refused: dict[Key, str] = {}
        self._stamps: dict[Key, object] = {}
        self._up = False
        self._begun: asyncio.Task[None] | None = None  # the last refresh that has begun to ask
        self._waiting: asyncio.Task[None] | None = None  # one that hasn't

    @property
    def up(self) -> bool:
        """Whether Triton answered the last time it was asked."""
        return self._up

    @property
    def ready(self) -> bool:
        """Whether a request can be served: Triton answers, and of the models it knows one at least is loaded."""
        return self._up and (bool(self._served) or not self._known)

    @property
    def refused(self) -> Mapping[Key, str]:
        """Versions, by name and number, that Triton has but the gateway doesn't serve, and why."""
        return self._refused

    def models(self) -> Mapping[str, Mapping[str, Served]]:
        """Served versions by model name and version."""
        return self._served

    def find(self, name: str, version: str | None) -> Served:
        """The version asked for, or the newest one; UnknownModel or UpstreamUnavailable when it isn't served."""
        if self._up and not version and name in self._newest:  # what nearly every request asks
            return self._newest[name]
        versions = self._served.get(name)
        if not self._up and (versions or name in self._known):
            raise UpstreamUnavailable("the inference server is not available")
        if versions is None:
            if name in self._known:
                raise UpstreamUnavailable(f"model {name!r} is not ready")
            raise UnknownModel(f"unknown model {name!r:.80}; models are {sorted(self._served)}")
        if not version:
            return self._newest[name]
        try:
            return versions[version]
        except KeyError:
            if (name, version) in self._listed:
                raise UpstreamUnavailable(f"model {name!r} version {version} is not ready") from None
            raise UnknownModel(
                f"model {name!r} has no version {version!r:.40}; versions are {sorted(versions, key=int)}"
            ) from None

    async def changes_of_readiness(self) -> AsyncIterator[bool]:
        """Yield `ready` now, and whenever it changes."""
        said: bool | None = None
        while True:
            if said is not self.ready:
                said = self.ready
                yield said
            await asyncio.sleep(_DOWN_INTERVAL_S)

    async def watch(self, interval_s: float) -> None:
        """Refresh for ever."""
        while True:
            try:
                await self.refresh()
            except Exception:  # the outermost edge: whatever goes wrong once, the next look may go right
                log.exception("the catalog can't be refreshed")
            await asyncio.sleep(interval_s if self._up else min(interval_s, _DOWN_INTERVAL_S))

    async def refresh(self) -> None:
        """Ask Triton once. While it can't be reached, what was served stays known.

        They who call this meanwhile share the next time of asking: what they see is newer than their call.
        """
        await asyncio.shield(self._next_refresh())

    async def look(self, deadline: float) -> None:
        """Refresh, because something may have changed just now; give up waiting at the deadline (monotonic seconds)."""
        await asyncio.wait([self._next_refresh()], timeout=max(0.0, deadline - time.monotonic()))

    def _next_refresh(self) -> asyncio.Task[None]:
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_task(self._refresh_after(self._begun))
        return self._waiting

    async def _refresh_after(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        self._begun, self._waiting = self._waiting, None
        await self._ask()

    async def _ask(self) -> None:
        try:
            index = await self._upstream.index(_INDEX_TIMEOUT_S)
        except UpstreamFailed as exc:  # it answers, but can't read its repository: what it has in memory it serves
            log.error("triton can't list its repository: %s", exc)
            self._set_up(True, "")
            return
        except (UpstreamError, DeadlineExceeded) as exc:
            self._set_up(False, str(exc))
            return
        ready = {(entry.name, entry.version) for entry in index if entry.ready}
        fresh = await asyncio.to_thread(self._read, ready)
        self._swap(index, ready, fresh)
        self._set_up(True, "")

    def _read(self, ready: set[Key]) -> dict[Key, Served]:
        """Versions that weren't served before. One that is refused is tried again when its contract changes.

        What is served stays as it is for as long as Triton has it: a contract never changes, and files that go bad or
        away under a model in Triton's memory are no reason to stop answering.
        """
        fresh = {}
        for key in ready - {(s.name, s.version) for versions in self._served.values() for s in versions.values()}:
            stamp = _stamp(self.repository.version_dir(*key))
            if key in self._refused and self._stamps.get(key) == stamp:
                continue
            self._stamps[key] = stamp
            try:
                fresh[key] = self._serve(*key)
                self._refused.pop(key, None)
            except ContractError as exc:
                log.error("not serving %s version %s: %s", *key, exc)
                self._refused[key] = str(exc)
        return fresh

    def _serve(self, name: str, version: str) -> Served:
        try:
            contract = self.repository.contract(name, version)
        except ContractNotFound:
            return Served(name, version)
        folder = self.repository.version_dir(name, version)
        prepare, answer = preprocessor(contract, folder, self._room), answerer(contract.postprocess, folder)
        return Served(name, version, contract, Observer(contract), prepare, answer)

    def _swap(self, index: Sequence[IndexEntry], ready: set[Key], fresh: dict[Key, Served]) -> None:
        before = {(s.name, s.version): s for versions in self._served.values() for s in versions.values()}
        after = {key: served for key, served in before.items() if key in ready} | fresh
        self._stamps = {key: stamp for key, stamp in self._stamps.items() if key in ready}
        self._refused = {key: reason for key, reason in self._refused.items() if key in ready}
        self._known = frozenset(entry.name for entry in index)
        self._listed = frozenset((entry.name, entry.version) for entry in index)
        added = tuple(served for key, served in after.items() if before.get(key) is not served)
        removed = tuple(served for key, served in before.items() if after.get(key) is not served)
        if not added and not removed:
            return
        self._on_change(Change(added, removed))  # before the swap: every series exists when the first request comes
        models: dict[str, dict[str, Served]] = {}
        for (name, version), served in sorted(after.items()):
            models.setdefault(name, {})[version] = served
        self._served = models
        self._newest = {name: versions[newest(versions)] for name, versions in models.items()}

    def _set_up(self, up: bool, reason: str) -> None:
        if up != self._up:
            log.log(logging.INFO if up else logging.ERROR, "triton is %s%s", "up" if up else "down: ", reason)
        self._up = up
        self._on_up(up)


def newest(versions: Mapping[str, Served]) -> str:
    """The highest version number: what a request that names none is served by."""
    return max(versions, key=int)


def _stamp(version_dir: Path) -> object:
    try:
        stat = (version_dir / CONTRACT_FILE).stat()
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)
