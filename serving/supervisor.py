"""Keeps Triton running and its models in step with the repository, until told to stop.

One loop, one thread: is Triton there, is it in step, wait. When Triton died, or hasn't answered for `hang_timeout_s`,
it is started again: at once the first time, then after growing pauses while it keeps dying. Without a launcher
(someone else runs Triton) only the models are kept in step.
"""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from serving.error import LaunchFailed, RepositoryMissing, TritonUnreachable
from serving.launcher import Launcher
from serving.loader import Loader
from serving.stub import StubWatch

_GLANCE_S = 0.1
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SupervisorSettings:
    """The loop's rhythm. A Triton that ran for `stable_s` starts its restarts from the shortest pause again."""

    interval_s: float = 1.0
    backoff_min_s: float = 0.5
    backoff_max_s: float = 30.0
    stable_s: float = 60.0
    hang_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.backoff_min_s <= self.backoff_max_s:
            raise ValueError(f"expected 0 < backoff_min_s <= backoff_max_s, got {self.backoff_min_s}")
        if self.interval_s <= 0 or self.hang_timeout_s <= 0:
            raise ValueError("interval_s and hang_timeout_s must be above zero")


class Supervisor:
    """Runs the loop; `stop` ends it, from any thread or signal handler."""

    def __init__(
        self,
        loader: Loader,
        launcher: Launcher | None,
        *,
        stop: threading.Event,
        settings: SupervisorSettings | None = None,
    ) -> None:
        self._loader = loader
        self._launcher = launcher
        self._stop = stop
        self._settings = settings or SupervisorSettings()
        self._stubs = StubWatch()
        self._pauses = self._backoff()
        self._started = time.monotonic()
        self._answered = time.monotonic()
        self._complaint: str | None = None

    def run(self) -> None:
        """Start Triton, then supervise until `stop` is set; Triton is stopped on the way out.

        Raises LaunchFailed when Triton can't be started the first time; later failures are logged and tried again.
        """
        try:
            if self._launcher is not None:
                self._start(self._launcher)
            while not self._stop.is_set():
                self._step()
                self._rest()
        finally:
            if self._launcher is not None:
                self._launcher.stop()

    def _step(self) -> None:
        if self._launcher is not None and (reason := self._ailment(self._launcher)) is not None:
            self._revive(self._launcher, reason)
        try:
            self._loader.reconcile()
            self._replace_dead_stubs()
        except TritonUnreachable as exc:
            self._complain(str(exc))
        except RepositoryMissing as exc:
            self._complain(str(exc))
            self._answered = time.monotonic()  # it wasn't asked: no sign of an ailment
        else:
            self._complaint = None
            self._answered = time.monotonic()
        if self._launcher is not None:
            self._launcher.log.trim()

    def _replace_dead_stubs(self) -> None:
        pid = self._launcher.pid if self._launcher is not None else None
        if pid is None:
            return
        served = [name for name, state in self._loader.states.items() if state.versions]
        for model in sorted(self._stubs.dead_models(pid, served)):
            self._loader.reload(model, "its process died")

    def _rest(self) -> None:
        """Until it is time for the next look, or Triton is gone."""
        until = time.monotonic() + self._settings.interval_s
        while time.monotonic() < until and not self._stop.wait(min(_GLANCE_S, self._settings.interval_s)):
            if self._launcher is not None and self._launcher.exit_reason() is not None:
                return

    def _ailment(self, launcher: Launcher) -> str | None:
        """Why Triton must be started again; None when it needn't."""
        if (reason := launcher.exit_reason()) is not None:
            return reason
        silent_s = time.monotonic() - self._answered
        return f"Triton hasn't answered for {silent_s:.0f} s" if silent_s > self._settings.hang_timeout_s else None

    def _revive(self, launcher: Launcher, reason: str) -> None:
        if time.monotonic() - self._started > self._settings.stable_s:
            self._pauses = self._backoff()
        while not self._stop.is_set():
            pause_s = next(self._pauses)
            _LOG.error("%s; it is started again in %.1f s. Its last lines:\n%s", reason, pause_s, launcher.log.tail(8))
            launcher.stop()
            if self._stop.wait(pause_s):
                return
            try:
                self._start(launcher)
            except LaunchFailed as exc:
                reason = str(exc).partition("\n")[0]
            else:
                self._loader.forget()
                return

    def _start(self, launcher: Launcher) -> None:
        launcher.start()
        self._started = self._answered = time.monotonic()

    def _backoff(self) -> Iterator[float]:
        yield 0.0
        pause_s = self._settings.backoff_min_s
        while True:
            yield pause_s
            pause_s = min(2 * pause_s, self._settings.backoff_max_s)

    def _complain(self, complaint: str) -> None:
        """Once for each new reason, not once a second."""
        if complaint != self._complaint and not self._stop.is_set():
            self._complaint = complaint
            _LOG.warning("%s", complaint)
