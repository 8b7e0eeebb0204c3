"""Make Triton serve what the repository asks for, and nothing else; name what can't be served, and why.

Declarative: `reconcile` compares the repository with what Triton serves and what was tried before, and calls Triton
only for the differences. So it may run every second, start late, or miss a change and find it the next time.

- A version that fails stays out; the other versions of its model, and all other models, are served.
- What failed is tried again when its files change, or when Triton was away: a new process has no memory.
- A version that serves already and whose files on disk went bad goes on serving from memory until something else of its
  model changes: what was loaded is what was verified.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from contract.repository import Repository
from serving.control import Control
from serving.error import LoadFailed, RepositoryMissing, TritonUnreachable
from serving.published import Examined, Published, examine, look

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """What became of one model: the versions asked of Triton, and the reasons of those that aren't served.

    `problem` concerns the model as a whole.
    """

    versions: tuple[int, ...] = ()
    problems: Mapping[int, str] = field(default_factory=dict)
    problem: str | None = None

    @property
    def healthy(self) -> bool:
        """Whether all that the repository asks for is served."""
        return self.problem is None and not self.problems


@dataclass(frozen=True, kw_only=True)
class _Record:
    """How a model was last dealt with."""

    published: Published
    loaded: dict[int, str]
    loaded_config: object
    state: ModelState


class Loader:
    """Keeps one Triton in step with one repository."""

    def __init__(
        self,
        repository: Repository,
        triton: Control,
        *,
        load_timeout_s: float = 300.0,
        node: tuple[str, str, str] | None = None,
    ) -> None:
        self._repository = repository
        self._triton = triton
        self._load_timeout_s = load_timeout_s
        self._node = node
        self._records: dict[str, _Record] = {}
        self._leaving: set[str] = set()

    @property
    def states(self) -> dict[str, ModelState]:
        """What the last reconcile left, by model."""
        return {name: record.state for name, record in self._records.items()}

    def reconcile(self) -> dict[str, ModelState]:
        """Bring Triton in step and return every model's state.

        Raises TritonUnreachable, after which everything is tried anew, and RepositoryMissing: an absent folder is
        taken for a mount that isn't there yet, never for a wish to unload all models.
        """
        if not self._repository.root.is_dir():
            raise RepositoryMissing("the model repository's folder doesn't exist; nothing is loaded or unloaded")
        try:
            serving = self._triton.serving()
            wanted = self._repository.models()
            for name in wanted:
                self._settle(name, serving.get(name, set()))
            self._unload_others(set(wanted), set(serving))
        except TritonUnreachable:
            self.forget()
            raise
        return self.states

    def reload(self, name: str, reason: str) -> None:
        """Take a model out, so that the next reconcile loads it anew; raises TritonUnreachable."""
        _LOG.error("model %s is loaded anew: %s", name, reason)
        try:
            self._triton.unload(name)
        except LoadFailed as exc:
            _LOG.warning("model %s can't be unloaded: %s", name, exc)
        self._records.pop(name, None)

    def forget(self) -> None:
        """Take nothing for loaded or failed any more: Triton was started anew."""
        self._records.clear()
        self._leaving.clear()

    def _settle(self, name: str, serving: set[int]) -> None:
        record = self._records.get(name)
        published = look(self._repository, name, record.published if record else None)
        if published is None:
            return
        if record and record.published.stamp == published.stamp and set(record.state.versions) <= serving:
            return
        self._records[name] = self._bring(published, record, serving)
        self._leaving.discard(name)
        _report(name, self._records[name].state)

    def _bring(self, published: Published, record: _Record | None, serving: set[int]) -> _Record:
        loaded = {v: i for v, i in record.loaded.items() if v in serving} if record else {}
        loaded_config = record.loaded_config if record else None
        if published.config is None:
            state = ModelState(versions=tuple(loaded), problem=published.problem)
            return _Record(published=published, loaded=loaded, loaded_config=loaded_config, state=state)
        examined = examine(self._repository, published, self._node)
        in_step = loaded_config == published.config and examined.accepted.items() <= loaded.items()
        in_step = in_step and loaded.keys() <= set(published.named_versions)
        if not (in_step and loaded):
            loaded, examined, problem = self._load(published, examined, loaded)
            loaded_config = published.config if problem is None else loaded_config
        else:
            problem = None
        state = ModelState(versions=tuple(sorted(loaded)), problems=examined.refused, problem=problem)
        return _Record(published=published, loaded=loaded, loaded_config=loaded_config, state=state)

    def _load(
        self, published: Published, examined: Examined, loaded: dict[int, str]
    ) -> tuple[dict[int, str], Examined, str | None]:
        """Load what was accepted; versions that Triton refuses are left out, and the rest is loaded without them.

        Returns what serves now, the examination with Triton's refusals added, and what is wrong with the whole.
        """
        accepted, refused = dict(examined.accepted), dict(examined.refused)
        problem = None
        while accepted:
            try:
                self._triton.load(published.name, published.config, sorted(accepted), timeout_s=self._load_timeout_s)
            except LoadFailed as exc:
                failed = {version: reason for version, reason in exc.versions.items() if version in accepted}
                refused |= failed
                accepted = {version: identity for version, identity in accepted.items() if version not in failed}
                if failed:
                    continue
                problem = str(exc)
                break
            return accepted, Examined(accepted=accepted, refused=refused), None
        problem = problem or "none of its versions can be served"
        return loaded, Examined(accepted=accepted, refused=refused), problem

    def _unload_others(self, wanted: set[str], serving: set[str]) -> None:
        self._leaving &= serving
        for name in sorted(serving - wanted - self._leaving):
            try:
                self._triton.unload(name)
            except LoadFailed as exc:
                _LOG.warning("model %s can't be unloaded: %s", name, exc)
                continue
            self._leaving.add(name)  # it stays in the list until its last request is answered
            _LOG.info("model %s is unloaded: the repository has it no longer", name)
        for name in self._records.keys() - wanted:
            del self._records[name]


def _report(name: str, state: ModelState) -> None:
    for version, reason in state.problems.items():
        _LOG.error("model %s version %d isn't served: %s", name, version, reason)
    if state.problem:
        _LOG.error("model %s: %s", name, state.problem)
    if state.versions:
        _LOG.info("model %s serves %s", name, ", ".join(f"version {version}" for version in state.versions))
